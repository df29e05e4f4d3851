"""``completion``: lets Tab complete the verbs in bash, zsh and fish; generated from the tree that parses them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from apex_exec.cli.output import say
from apex_exec.cli.root import app, examples
from apex_exec.cli.tree import command_tree
from apex_exec.cli.verbs import Argument

Shell = Literal["bash", "zsh", "fish"]


class Option(NamedTuple):
    """One option: its names, whether a value follows, and the possible values if they are limited."""

    names: tuple[str, ...]
    takes_value: bool
    choices: tuple[str, ...]
    help: str


class Node(NamedTuple):
    """One verb or group: ``path`` is its words, as ("plugin", "list"); ``words`` are its arguments' possible values."""

    path: tuple[str, ...]
    help: str
    children: tuple[str, ...]
    options: tuple[Option, ...]
    words: tuple[str, ...]


@app.command(epilog=examples(
    "apex-exec completion bash > ~/.local/share/bash-completion/completions/apex-exec",
    "apex-exec completion zsh > ~/.zfunc/_apex-exec   # with fpath+=~/.zfunc before compinit",
    "apex-exec completion fish > ~/.config/fish/completions/apex-exec.fish"))
def completion(shell: Annotated[Shell, Argument(help="bash, zsh or fish.")]) -> None:
    """Prints a script for a shell that completes verbs, options and their values.

    For the shell that is open now: source <(apex-exec completion bash)
    """
    nodes = list(walk(command_tree(), ()))
    say({"bash": bash, "zsh": zsh, "fish": fish}[shell](nodes), end="")


def walk(command: Any, path: tuple[str, ...]) -> Iterator[Node]:
    """Every node of the tree below ``command``, itself first."""
    children = getattr(command, "commands", {})
    options = [Option(tuple(one.opts) + tuple(one.secondary_opts), not (one.is_flag or one.count), _choices(one),
                      _first_line(one.help)) for one in command.params if one.param_type_name == "option"]
    options.append(Option(("--help", "-h"), False, (), "Show what it does, with an example."))
    words = [word for one in command.params if one.param_type_name == "argument" for word in _choices(one)]
    yield Node(path, _first_line(command.help), tuple(children), tuple(options), tuple(words))
    for name, child in children.items():
        yield from walk(child, (*path, name))


def _choices(parameter: Any) -> tuple[str, ...]:
    """The values that a parameter may have, if it is a Literal."""
    return tuple(map(str, getattr(parameter.type, "choices", ())))


def _first_line(text: str | None) -> str:
    return re.split(r"\n|(?<=\.) ", (text or "").strip())[0].rstrip(".")


def _quoted(words: Any) -> str:
    return shlex.quote(" ".join(words))


def bash(nodes: list[Node]) -> str:
    """For bash 3.2 and later. If nothing else fits, bash completes file names."""
    places = "|".join(shlex.quote(" " + " ".join(node.path)) for node in nodes if node.path)
    values = "\n".join(
        f"        {'|'.join(shlex.quote(' '.join(('', *node.path)) + ':' + name) for name in one.names)})\n"
        f"            words={_quoted(one.choices)} ;;"
        for node in nodes for one in node.options if one.takes_value)
    words = "\n".join(
        f"        {shlex.quote(' '.join(('', *node.path)) if node.path else '')})\n"
        f"            commands={_quoted((*node.children, *node.words))}\n"
        f"            options={_quoted(name for one in node.options for name in one.names)} ;;" for node in nodes)
    return f"""# bash completion of apex-exec, made by `apex-exec completion bash`
_apex_exec() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    local here="" commands="" options="" words="-" index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$here ${{COMP_WORDS[index]}}" in
            {places})
                here="$here ${{COMP_WORDS[index]}}" ;;
        esac
    done
    case "$here:$prev" in
{values}
    esac
    if [ "$words" != "-" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    case "$here" in
{words}
    esac
    case "$cur" in
        -*) COMPREPLY=($(compgen -W "$options" -- "$cur")) ;;
        *) COMPREPLY=($(compgen -W "$commands" -- "$cur")) ;;
    esac
}}
complete -o bashdefault -o default -F _apex_exec apex-exec
"""


def zsh(nodes: list[Node]) -> str:
    """For zsh with compinit, as a file of fpath or sourced."""
    def described(name: str, help: str) -> str:
        return shlex.quote(name.replace(":", "\\:") + ":" + help)

    def verbs_of(node: Node) -> Iterator[str]:
        yield from (described(name, known[(*node.path, name)].help) for name in node.children)
        yield from map(shlex.quote, node.words)

    known = {node.path: node for node in nodes}
    places = "|".join(shlex.quote(" " + " ".join(node.path)) for node in nodes if node.path)
    values = "\n".join(
        f"        {'|'.join(shlex.quote(' '.join(('', *node.path)) + ':' + name) for name in one.names)})\n"
        f"            {f'compadd -- {shlex.join(one.choices)}' if one.choices else '_files'}; return ;;"
        for node in nodes for one in node.options if one.takes_value)
    words = "\n".join(
        f"        {shlex.quote(' '.join(('', *node.path)) if node.path else '')})\n"
        f"            verbs=({' '.join(verbs_of(node))})\n"
        f"            options=({' '.join(described(name, one.help) for one in node.options for name in one.names)}) ;;"
        for node in nodes)
    return f"""#compdef apex-exec
# zsh completion of apex-exec, made by `apex-exec completion zsh`
_apex_exec() {{
    local here="" word
    local -a verbs options
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        case "$here $word" in
            {places})
                here="$here $word" ;;
        esac
    done
    case "$here:${{words[CURRENT-1]}}" in
{values}
    esac
    case "$here" in
{words}
    esac
    if [[ "${{words[CURRENT]}}" == -* ]]; then
        _describe -o option options
    elif (( $#verbs )); then
        _describe verb verbs
    else
        _files
    fi
}}
if [ "$funcstack[1]" = "_apex_exec" ]; then
    _apex_exec "$@"
else
    compdef _apex_exec apex-exec
fi
"""


def fish(nodes: list[Node]) -> str:
    """For fish 3 and later."""
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    known = {node.path: node for node in nodes}
    places = " ".join(quoted(" ".join(node.path)) for node in nodes if node.path)
    lines = ["# fish completion of apex-exec, made by `apex-exec completion fish`", "function __apex_exec_at",
             "    set -l here", "    for word in (commandline -opc)[2..-1]",
             f"        contains -- (string join ' ' $here $word) {places}; and set -a here $word", "    end",
             "    test (string join ' ' $here) = \"$argv\"", "end"]
    for node in nodes:
        at = f"complete -c apex-exec -n {quoted('__apex_exec_at ' + ' '.join(node.path))}"
        lines += [f"{at} -f -a {quoted(name)} -d {quoted(known[(*node.path, name)].help)}" for name in node.children]
        lines += [f"{at} -f -a {quoted(word)}" for word in node.words]
        for one in node.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in one.names)
            value = f" -x -a {quoted(' '.join(one.choices))}" if one.choices else " -r" if one.takes_value else ""
            lines.append(f"{at} {names}{value} -d {quoted(one.help)}")
    return "\n".join(lines) + "\n"
