{{/* The name of everything that is made is the release's; a Service cannot have all of the names that a release can. */}}
{{- define "apex-exec.name" -}}
{{- if not (regexMatch "${name_pattern}" .Release.Name) -}}
{{- fail (printf "the release's name %q cannot be the name of a Service; use up to 42 of a-z, 0-9 and hyphens" .Release.Name) -}}
{{- end -}}
{{- .Release.Name -}}
{{- end -}}
{{/* What a container needs that this many workers at their limit fit in. */}}
{{- define "apex-exec.memory" -}}
{{- printf "%dMi" (mul ${step_mib} (div (add ${base_mib} (mul (int .) ${worker_mib}) ${step_less_one}) ${step_mib})) -}}
{{- end -}}
