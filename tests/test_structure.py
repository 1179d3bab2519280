"""The shape of the code: layers import downwards only, third-party seams stay in their places, files stay small."""

import ast
import importlib.util
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

BASE = {
    "__version__",
    "types",
    "sampling_mask",
    "errors",
    "seeds",
    "observe",
    "faults",
    "run_folder",
    "lock",
    "relay",
    "manifest",
    "direct_io",
    "open_files",
    "child_environment",
    "json_file",
    "parent",
    "plain_text",
    "unpack",
    "yaml_text",
    "stop_signal",
    "__init__",
}
LAYERS = [
    BASE,
    {"sections.base", "sections.registry", "plugins"},
    {"grading", "data.source", "data.file_source", "data.json_rows"},
    {"sections"},
    {"methods", "stages"},
    {"config"},
    {"data", "convert", "egrc_kernels", "miniature"},
    {"rollout", "embedded", "policy", "sync", "checkpoint"},
    {"evaluation", "trackers", "miniature.base_model", "bench", "plan"},
    {"report", "diagnosis.connectors", "diagnosis.loops", "diagnosis.texts", "diagnosis.text_totals"}
    | {"diagnosis.token_classes"},
    {"training", "train", "diagnosis"},
    {"launch", "studies"},
    {"soak"},
    {"cli"},
]
"""Lowest first; of a folder and a file in it the file's layer counts. `testing` may import everything, only tests
import it."""

SEAMS = {
    "megatron": ("policy", "checkpoint", "bench", "testing"),
    "transformers": ("convert", "data", "embedded", "miniature", "testing"),
    "aiohttp": ("rollout", "embedded", "soak", "testing"),
    "math_verify": ("grading",),
    "matplotlib": ("report", "bench"),
    "typer": ("cli",),
    "tensorboardX": ("trackers",),
    "wandb": ("trackers",),
    "trackio": ("trackers",),
    "sglang": (),
}
"""Third-party package -> the folders of egrc_mega that may import it."""

MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80
LONG_KERNELS = {"_policy_loss_kernel": 121}
"""Kernels that are one launch on purpose; this list only shrinks."""
SHORT_FOLDERS = ("rollout", "training")
"""Where a function has at most so many lines, and half of them at most so few:"""
MAX_SHORT_LINES, MAX_MEDIAN_LINES = 45, 10
WAY_OF_A_REQUEST = ("stream", "dispatch", "segments", "client", "wire")
"""Files of rollout/ in the order in which a request goes through them, and its answer comes back."""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below egrc_mega (or egrc_kernels...) -> file."""
    found = {}
    for file in sorted((root / "egrc_mega").rglob("*.py")):
        parts = file.relative_to(root / "egrc_mega").with_suffix("").parts
        found[".".join(parts)] = file
    for file in sorted((root / "kernels" / "egrc_kernels").rglob("*.py")):
        found[".".join(file.relative_to(root / "kernels").with_suffix("").parts)] = file
    return found


def imports(file: Path) -> set[str]:
    """Absolute names of everything imported anywhere in the file, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(name: str) -> int:
    found = [(len(e), n) for n, entries in enumerate(LAYERS) for e in entries if name == e or name.startswith(f"{e}.")]
    assert found, f"{name} has no layer: add it to LAYERS"
    return max(found)[1]


def test_layers_import_downwards_only(root: Path) -> None:
    violations = []
    for name, file in modules(root).items():
        if name.startswith("testing"):
            continue
        for imported in imports(file):
            own = imported.removeprefix("egrc_mega.")
            if imported.startswith("egrc_mega.testing"):
                violations.append(f"{name} imports test helpers")
            elif (own != imported or imported.startswith("egrc_kernels")) and layer(own) > layer(name):
                violations.append(f"{name} (layer {layer(name)}) imports {own} (layer {layer(own)})")
    assert violations == []


def test_third_party_seams_stay_in_their_places(root: Path) -> None:
    violations = [
        f"{file.relative_to(root)} imports {imported}"
        for file in sorted((root / "egrc_mega").rglob("*.py"))
        for imported in imports(file)
        for package, places in SEAMS.items()
        if imported.split(".")[0] == package
        and not any(file.is_relative_to(root / "egrc_mega" / place) for place in places)
    ]
    assert violations == []


def functions(file: Path) -> list[tuple[str, int]]:
    """Names and numbers of lines."""
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_files_and_functions_stay_small(root: Path) -> None:
    too_long = []
    for name, file in modules(root).items():
        num_lines = file.read_text().count("\n")
        if num_lines > MAX_FILE_LINES:
            too_long.append(f"{name}: {num_lines} lines")
        limit = MAX_SHORT_LINES if name.startswith(SHORT_FOLDERS) else MAX_FUNCTION_LINES
        too_long += [f"{name}: {f}: {n} lines" for f, n in functions(file) if n > LONG_KERNELS.get(f, limit)]
    assert too_long == []


@pytest.mark.parametrize("folder", SHORT_FOLDERS)
def test_half_of_the_functions_are_read_at_a_glance(folder: str, root: Path) -> None:
    lines = [n for file in (root / "egrc_mega" / folder).rglob("*.py") for _name, n in functions(file)]
    assert median(lines) <= MAX_MEDIAN_LINES


def imported_files(root: Path) -> dict[str, set[str]]:
    """Module -> the modules that it imports, in functions and for type checkers only, too.

    `from package import module` counts as the module, not as the package's `__init__`.
    """
    found = modules(root)
    graph: dict[str, set[str]] = {}
    for name, file in found.items():
        names = {imported.removeprefix("egrc_mega.") for imported in imports(file)}
        packages = {n.rpartition(".")[0] for n in names if n in found}
        files = {n for n in names if n in found} | {
            f"{n}.__init__" for n in names - packages if f"{n}.__init__" in found and n not in found
        }
        graph[name] = files - {name}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other, in order; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle(root: Path) -> None:
    assert circle_in({"a": {"b"}, "b": {"a"}})
    assert circle_in(imported_files(root)) == []


def test_a_request_goes_through_each_file_once(root: Path) -> None:
    """Each file on its way knows the next one, none further on, and none that it has left."""
    graph = imported_files(root)
    for place, name in enumerate(WAY_OF_A_REQUEST):
        known = [other for other in WAY_OF_A_REQUEST if f"rollout.{other}" in graph[f"rollout.{name}"]]
        assert known == list(WAY_OF_A_REQUEST[place + 1 : place + 2]), name


def test_the_training_loop_can_be_read_in_a_minute(root: Path) -> None:
    assert (root / "egrc_mega" / "train.py").read_text().count("\n") <= 100


def documented(tree: ast.Module) -> list[tuple[str, str | None]]:
    """Name and docstring of the module, and of all functions and classes in it that have one or should have."""
    found: list[tuple[str, str | None]] = [("the module", ast.get_docstring(tree))]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_public = node in tree.body and not node.name.startswith("_")
            text = ast.get_docstring(node)
            found += [(node.name, text)] if text is not None or is_public else []
    return found


def is_a_sentence(text: str) -> bool:
    """Whether a docstring begins as sentences do: a name in code or a shape in brackets may stand first."""
    first = text.partition("\n\n")[0].strip()
    return not first[0].islower() and first.endswith(".") and len(first.split()) >= 4


def test_modules_and_public_functions_and_classes_say_what_they_are_for(root: Path) -> None:
    silent = [
        f"{module}: {name}"
        for module, file in modules(root).items()
        for name, text in documented(ast.parse(file.read_text()))
        if not text
    ]
    assert silent == []


def test_a_docstring_is_a_sentence_or_is_not_there(root: Path) -> None:
    scraps = [
        f"{module}: {name}: {text}"
        for module, file in modules(root).items()
        for name, text in documented(ast.parse(file.read_text()))
        if text and not is_a_sentence(text)
    ]
    assert scraps == []


def test_the_kernels_folder_is_no_package(root: Path) -> None:
    """With an `__init__.py` it would shadow Hugging Face's `kernels` for every process started here."""
    assert not (root / "kernels" / "__init__.py").exists()
    spec = importlib.util.find_spec("kernels")
    assert spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(root)


def test_egrc_kernels_needs_nothing_of_the_rest(root: Path) -> None:
    for name, file in modules(root).items():
        if name.startswith("egrc_kernels"):
            assert not any(imported.startswith("egrc_mega") for imported in imports(file)), name


TOP = {"README.md", "setup.py", "pyproject.toml", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"} | {
    *("egrc_mega", "kernels", "scripts", "configs", "tests", "benchmarks", "docs")
}


def test_the_top_of_the_repository_holds_what_it_is_known_for_and_no_more(root: Path) -> None:
    """Besides, there are names with a dot, and what git ignores; settings of a tool lie in its folder."""
    ignored = [line.strip("/") for line in (root / ".gitignore").read_text().splitlines()]
    there = {path.name for path in root.iterdir() if not any(fnmatch(path.name, pattern) for pattern in ignored)}
    assert {name for name in there if not name.startswith(".")} == TOP


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"])
def test_the_house_papers_are_there(root: Path, name: str) -> None:
    assert len((root / name).read_text()) > 300
