"""``python -m apex_exec.catalogue``: writes every file that is made from the catalogue."""

from apex_exec.catalogue.generated import files

for path, text in files().items():
    path.write_text(text, "utf-8")
    print(path)  # noqa: T201 - a developer's command
