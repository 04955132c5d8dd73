"""The rules of the tree: layers, forbidden imports, twins, sizes, wire codes. What we care about is a test.

Sources are read, not run, so a rule also holds where no test goes. A finding says file, line and rule.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from sadik import errors, kernels
from sadik.config import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sadik"
SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted(PACKAGE.rglob("*.pyi"))
CSRC = ROOT / "csrc"
KERNELS = sorted(path.stem for path in CSRC.glob("*.pyx"))

# A component imports those before it; `comms` and `storage` do not know each other, nor `node` and `client`.
LAYERS = (
    *("errors", "ids", "settings", "config"),
    *("kernels", "env", "metrics"),
    *("causality", "hashing"),
    *("comms", "storage"),
    "members",
    *("node", "client"),
    "api",
    "sim",
    "cli",
)
STRANGERS = ({"comms", "storage"}, {"node", "client"})
# `sim` is beside the server, not part of it; the public package shows the libraries only.
CLIENT_MAY = ("causality", "hashing", "comms.messages", "members.layout")
PUBLIC = ("causality", "hashing", "storage", "client", "errors", "ids")

EVENT_LOOP = ("asyncio", "aiohttp", "uvloop")
EVENT_LOOP_FILES = (
    *("api/*", "client/*", "cli/*", "sim/*"),
    *("*/tcp.py", "*/connection.py", "*/service.py", "*/background.py", "*/node.py"),
)
OUTSIDE = (
    "time",
    "random",
    "secrets",
    "threading",
    "multiprocessing",
    "concurrent",
    "uuid",
    "socket",
    "_thread",
)
OUTSIDE_CALLS = (
    "os.urandom",
    "os.getrandom",
    "datetime.now",
    "datetime.utcnow",
    "date.today",
    "np.random",
    "numpy.random",
)
NO_NOUNS = ("utils", "util", "helpers", "helper", "common", "manager", "misc", "tools")
LINES_MAX = 600


def name_of(path: Path) -> str:
    """``node/vnode.py``: the file as findings show it."""
    return path.relative_to(PACKAGE).as_posix()


def component_of(module: str) -> str:
    """``sadik.node.vnode`` is in ``node``; ``sadik`` itself is the empty component."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(path: Path) -> str:
    parts = ["sadik", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of all that a file imports: inside functions, for type checking, by name."""
    package = module_of(path) if path.name.startswith("__init__.") else module_of(path).rpartition(".")[0]
    for item in ast.walk(tree_of(path)):
        match item:
            case ast.Import():
                yield from ((item.lineno, alias.name) for alias in item.names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield from ((item.lineno, module_or_member(module, alias.name)) for alias in item.names)
            case ast.ImportFrom():
                base = ".".join(package.split(".")[: len(package.split(".")) - item.level + 1])
                module = f"{base}.{item.module}" if item.module else base
                yield from ((item.lineno, module_or_member(module, alias.name)) for alias in item.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield item.lineno, module


def module_or_member(module: str, member: str) -> str:
    """``from sadik.api import process`` imports a module, ``from sadik.ids import NodeId`` a member."""
    if module.split(".")[0] != "sadik":
        return module
    path = PACKAGE.joinpath(*module.split(".")[1:])
    found = any((path / name).exists() for name in (f"{member}.py", f"{member}.pyi", f"{member}/__init__.py"))
    return f"{module}.{member}" if found else module


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for an attribute chain, or nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def report(findings: list[str]) -> None:
    assert not findings, "\n" + "\n".join(findings)


def allowed(source: str, target: str) -> bool:
    """May a module of Sadik import another one?"""
    here, there = component_of(source), component_of(target)
    if here == there or there == "":
        return True
    if here == "":
        return there in PUBLIC
    if {here, there} in STRANGERS:
        return False
    if here == "client" and LAYERS.index(there) >= LAYERS.index("causality"):
        return any(f"{target}.".startswith(f"sadik.{name}.") for name in CLIENT_MAY)
    return LAYERS.index(there) < LAYERS.index(here)


def test_every_component_has_its_layer():
    """A new folder says where it belongs before anything imports it."""
    found = {component_of(module_of(path)) for path in SOURCES} - {""}
    assert found <= set(LAYERS), f"no layer is given for {sorted(found - set(LAYERS))}"


def test_imports_run_one_way():
    """Who may know whom is the architecture; a single import the other way ends it."""
    findings = []
    for path in SOURCES:
        for line, target in imports_of(path):
            if target.split(".")[0] == "sadik" and not allowed(module_of(path), target):
                findings.append(
                    f"sadik/{name_of(path)}:{line}: {module_of(path)} must not import {target}: "
                    f"`{component_of(target)}` is not below `{component_of(module_of(path))}`"
                )
    report(findings)


@pytest.mark.parametrize(
    ("source", "target", "verdict"),
    [
        ("sadik.node.vnode", "sadik.storage.engine", True),
        ("sadik.storage.engine", "sadik.node.vnode", False),
        ("sadik.storage.engine", "sadik.comms.frames", False),
        ("sadik.comms.frames", "sadik.storage.engine", False),
        ("sadik.env.clock", "sadik.kernels.mapping", True),
        ("sadik.kernels", "sadik.env.clock", False),
        ("sadik.client.client", "sadik.members.layout", True),
        ("sadik.client.client", "sadik.members.gossip", False),
        ("sadik.client.client", "sadik.config", True),
        ("sadik.client.client", "sadik.storage.engine", False),
        ("sadik.node.node", "sadik.client", False),
        ("sadik.api.process", "sadik.sim.loop", False),
        ("sadik", "sadik.hashing", True),
        ("sadik", "sadik.api.process", False),
        ("sadik.errors", "sadik.ids", False),
        ("sadik.cli.node", "sadik", True),
    ],
)
def test_layer_rule_itself(source, target, verdict):
    """The judge is judged: a rule that accepts everything would find nothing for ever."""
    assert allowed(source, target) is verdict


def test_import_walk_sees_every_spelling(tmp_path, monkeypatch):
    """Imports in functions, relative ones, those for type checking, and those by name."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "node").mkdir()
    for name in ("vnode.py", "batch.py"):
        (tmp_path / "node" / name).write_text("")
    path = tmp_path / "node" / "probe.py"
    path.write_text(
        "import os.path\nfrom sadik.node import vnode\nfrom . import batch\nfrom .vnode import X\n"
        "from sadik.ids import NodeId\nif TYPE_CHECKING:\n    import sadik.api\n"
        "def f():\n    import asyncio\n    importlib.import_module('sadik.cli.node')\n"
    )
    assert [module for _, module in sorted(imports_of(path))] == [
        *("os.path", "sadik.node.vnode", "sadik.node.batch", "sadik.node.vnode", "sadik.ids"),
        *("sadik.api", "asyncio", "sadik.cli.node"),
    ]


def test_only_shells_know_the_event_loop():
    """Everything else is synchronous and runs to completion: its invariants hold at every await."""
    report(
        [
            f"sadik/{name_of(path)}:{line}: {module} is for {', '.join(EVENT_LOOP_FILES)} only"
            for path in SOURCES
            for line, module in imports_of(path)
            if module.split(".")[0] in EVENT_LOOP
            and not any(fnmatch(name_of(path), pattern) for pattern in EVENT_LOOP_FILES)
        ]
    )


def may_touch_outside(path: Path, module: str) -> bool:
    """``env`` is the outside; beside it each exception has its reason."""
    component = component_of(module_of(path))
    return (
        component == "env"
        # The synchronous client runs its event loop in a thread; a client has no simulated twin.
        or (component == "client" and module in ("threading", "time", "concurrent", "socket"))
        # Seeded generators are what the simulator is about; test_simulator_draws_from_seeds looks closer.
        or (component == "sim" and module == "random")
        # Campaigns are outside of the worlds that they run: in several processes, whose seconds they count.
        or (
            name_of(path) in ("sim/run.py", "sim/campaign.py")
            and module in ("time", "concurrent", "multiprocessing")
        )
        # Listeners and the errors of their addresses.
        or (component in ("api", "cli") and module == "socket")
    )


def test_time_and_chance_come_from_env():
    """One seed replays a cluster only while nobody else reads a clock, draws a number or starts a thread."""
    findings = []
    for path in SOURCES:
        for line, module in imports_of(path):
            root = module.split(".")[0]
            if root in OUTSIDE and not may_touch_outside(path, root):
                findings.append(
                    f"sadik/{name_of(path)}:{line}: {module} belongs to env/ (take it as an argument)"
                )
        if component_of(module_of(path)) == "env":
            continue
        for item in ast.walk(tree_of(path)):
            if isinstance(item, ast.Attribute) and dotted(item).endswith(OUTSIDE_CALLS):
                findings.append(f"sadik/{name_of(path)}:{item.lineno}: {dotted(item)} belongs to env/")
            # The shells may look into /proc and at what the operator names; data goes through Files.
            opens = isinstance(item, ast.Call) and dotted(item.func) == "open"
            if opens and component_of(module_of(path)) not in ("api", "cli"):
                findings.append(f"sadik/{name_of(path)}:{item.lineno}: open() belongs to env/ (Files)")
    report(findings)


def test_simulator_draws_from_seeds():
    """``random.Random(seed)`` only: the module's other functions share one generator without a seed."""
    findings = []
    for path in (path for path in SOURCES if component_of(module_of(path)) == "sim"):
        for item in ast.walk(tree_of(path)):
            match item:
                case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random":
                    findings.append(f"sadik/{name_of(path)}:{item.lineno}: random.{name} has no seed")
                case ast.Call(func=ast.Attribute(value=ast.Name(id="random"), attr="Random"), args=[]):
                    findings.append(f"sadik/{name_of(path)}:{item.lineno}: random.Random() has no seed")
                case ast.ImportFrom(module="random", names=names) if any(n.name != "Random" for n in names):
                    findings.append(f"sadik/{name_of(path)}:{item.lineno}: import random.Random only")
    report(findings)


def test_builtin_hash_places_nothing():
    """hash() of bytes and text is salted per process: two nodes would disagree, and a restart with itself."""
    findings = []
    for path in SOURCES:
        tree = tree_of(path)
        inside = {
            id(item)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name == "__hash__"
            for item in ast.walk(function)
        }
        findings += [
            f"sadik/{name_of(path)}:{item.lineno}: built-in hash() outside __hash__"
            for item in ast.walk(tree)
            if isinstance(item, ast.Call) and dotted(item.func) == "hash" and id(item) not in inside
        ]
    report(findings)


def test_no_error_is_swallowed():
    """A bare except hides bugs and cancellation; a broad one that does nothing hides everything else."""
    findings = []
    for path in SOURCES:
        for item in ast.walk(tree_of(path)):
            if not isinstance(item, ast.ExceptHandler):
                continue
            caught = dotted(item.type) if item.type is not None else ""
            idle = all(isinstance(step, ast.Pass | ast.Continue | ast.Break) for step in item.body)
            if item.type is None:
                findings.append(f"sadik/{name_of(path)}:{item.lineno}: except without a class")
            elif caught in ("Exception", "BaseException") and idle:
                findings.append(f"sadik/{name_of(path)}:{item.lineno}: except {caught} that does nothing")
    report(findings)


def test_file_names_are_nouns_of_the_field():
    """A drawer for everything is where a design ends."""
    everything = [*SOURCES, *CSRC.iterdir(), *(ROOT / "tests").rglob("*.py")]
    report(
        [f"{path.relative_to(ROOT)}: not a noun of the field" for path in everything if path.stem in NO_NOUNS]
    )


def test_no_file_grows_in_silence():
    """Past 600 lines the top of the file says why."""
    report(
        [
            f"{path.relative_to(ROOT)}: {count} lines; split it, or say at its top why over {LINES_MAX} lines"
            for path in [*SOURCES, *CSRC.glob("*.p[yx][xd]"), *CSRC.glob("*.h")]
            if (count := len(lines := path.read_text().splitlines())) > LINES_MAX
            and f"{LINES_MAX} lines" not in "\n".join(lines[:40])
        ]
    )


def test_nothing_is_left_for_later():
    """What is not done is an issue, not a comment."""
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    report(
        [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for path in [*SOURCES, *CSRC.iterdir()]
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if marks.search(line)
        ]
    )


def test_tests_never_sleep_and_hope():
    """A sleep is a race lost slowly. Only a loop may sleep, between two looks at what it waits for.

    In ``tests/sim`` time is a number, and sleeping is how it goes on. The nemesis of real processes sleeps
    for as long as its faults last.
    """
    findings = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.is_relative_to(ROOT / "tests" / "sim") or path.name == "nemesis.py":
            continue
        tree = tree_of(path)
        loops = (item for item in ast.walk(tree) if isinstance(item, ast.For | ast.While))
        polling = {id(item) for loop in loops for item in ast.walk(loop)}
        findings += [
            f"{path.relative_to(ROOT)}:{item.lineno}: {dotted(item.func)} outside a loop"
            for item in ast.walk(tree)
            if isinstance(item, ast.Call)
            and dotted(item.func) in ("time.sleep", "asyncio.sleep")
            and id(item) not in polling
            and not (item.args and isinstance(item.args[0], ast.Constant) and item.args[0].value == 0)
        ]
    report(findings)


def test_kernels_are_named_once():
    """The folder and the list that picks the twins agree."""
    assert sorted(kernels.NAMES) == KERNELS
    assert set(kernels.NAMES) <= set(kernels.__all__)


@pytest.mark.parametrize("name", sorted({*KERNELS, *kernels.NAMES}))
def test_kernel_has_stub_twin_and_test(name):
    """A kernel is four files; without its twin nobody can check it by eye."""
    needed = {
        "kernel": CSRC / f"{name}.pyx",
        "stub": PACKAGE / f"kernels/native/{name}.pyi",
        "reference twin": PACKAGE / f"kernels/reference/{name}.py",
        "test": ROOT / f"tests/kernels/test_{name}.py",
    }
    assert [f"{what}: {path.relative_to(ROOT)}" for what, path in needed.items() if not path.exists()] == []
    text = needed["test"].read_text()
    assert "sadik.kernels.native" in text, "the test does not import the native twin"
    assert "sadik.kernels.reference" in text, "the test does not import the reference twin"


def parameters_of(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    star = [arguments.vararg] if arguments.vararg else []
    return [item.arg for item in (*arguments.posonlyargs, *arguments.args, *star, *arguments.kwonlyargs)]


def stub_members(body: list[ast.stmt]) -> Iterator[tuple[str, list[str] | None]]:
    """(name, parameters or None) of what a stub promises. Aliases of types are no promise."""
    for item in body:
        if isinstance(item, ast.FunctionDef):
            is_property = any(dotted(decorator) == "property" for decorator in item.decorator_list)
            if not item.name.startswith("_"):
                yield item.name, None if is_property else parameters_of(item)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if not item.target.id.startswith("_"):
                yield item.target.id, None
        elif isinstance(item, ast.ClassDef) and not item.name.startswith("_"):
            yield item.name, None


def stub_of(name: str) -> ast.Module:
    return tree_of(PACKAGE / f"kernels/native/{name}.pyi")


@pytest.mark.parametrize("twin", ["native", "reference"])
@pytest.mark.parametrize("name", sorted(kernels.NAMES))
def test_twin_offers_what_its_stub_promises(name, twin):
    """The stub is the contract of both twins: every public name, with the same parameters in order."""
    module = importlib.import_module(f"sadik.kernels.{twin}.{name}")
    stub = stub_of(name)
    promises = list(stub_members(stub.body))
    assert promises, "the stub promises nothing"
    findings = []
    for member, parameters in promises:
        found = getattr(module, member, None)
        if found is None:
            findings.append(f"{twin} {name} has no {member}")
        elif parameters is not None and list(inspect.signature(found).parameters) != parameters:
            findings.append(
                f"{twin} {name}.{member} takes {list(inspect.signature(found).parameters)}, not {parameters}"
            )
    for item in stub.body:
        if isinstance(item, ast.ClassDef) and hasattr(module, item.name):
            # An attribute may exist on instances only; those the tests of the kernel read.
            for method, parameters in stub_members(item.body):
                if parameters is None:
                    continue
                found = getattr(getattr(module, item.name), method, None)
                if found is None:
                    findings.append(f"{twin} {name}.{item.name} has no {method}")
                elif len(inspect.signature(found).parameters) != len(parameters):
                    findings.append(f"{twin} {name}.{item.name}.{method} does not take {parameters}")
    report(findings)


def test_kernels_know_errors_only():
    """A kernel takes buffers and numbers: no file, clock, socket or logger, and of Sadik only its errors."""
    pattern = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)
    forbidden = {
        "os",
        "io",
        "time",
        "random",
        "socket",
        "logging",
        "threading",
        "asyncio",
        "numpy",
        "secrets",
    }
    findings = []
    for path in [*CSRC.glob("*.pyx"), *CSRC.glob("*.pxd")]:
        for found in pattern.finditer(path.read_text()):
            module = found[1] or found[2]
            root = module.split(".")[0]
            if root in forbidden or (root == "sadik" and module != "sadik.errors"):
                findings.append(f"{path.relative_to(ROOT)}: a kernel must not import {module}")
    report(findings)


LIBRARIES = {
    "sadik.hashing": "Ring, MerkleTree",
    "sadik.causality": "VectorClock",
    "sadik.storage": "LogEngine",
}


@pytest.mark.parametrize("module", LIBRARIES)
def test_library_needs_no_server(module):
    """Who wants a ring in a notebook loads no server. The names are taken too, as they come lazily."""
    code = f"from {module} import {LIBRARIES[module]}\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    servers = {f"sadik.{name}" for name in ("comms", "members", "node", "client", "api", "sim", "cli")}
    assert not loaded & (servers | {*EVENT_LOOP, "prometheus_client", "click", "rich"})


def error_classes() -> list[type[errors.SadikError]]:
    return [
        item
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.SadikError)
    ]


def test_wire_codes_are_words_clients_can_tell_apart():
    """A code is for ever. Those that make Redis clients retry, redirect or load scripts are taken."""
    taken = {
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "READONLY",
        "MASTERDOWN",
        "NOREPLICAS",
        "NOSCRIPT",
        "EXECABORT",
    }
    for item in error_classes():
        assert re.fullmatch(r"[A-Z]{2,16}", item.code), item
        assert item.code not in taken, item


def test_classes_of_one_code_are_kin():
    """One code, one meaning: only a narrower case may share it. ERR says nothing and is everyone's."""
    for one in error_classes():
        for other in error_classes():
            if one.code == other.code != "ERR":
                assert issubclass(one, other) or issubclass(other, one) or kin(one, other), (one, other)


def kin(one: type[errors.SadikError], other: type[errors.SadikError]) -> bool:
    """Both take the code from the same parent."""
    return any(base.__dict__.get("code") == one.code for base in set(one.__mro__) & set(other.__mro__))


def test_every_option_is_read_by_somebody():
    """An option that nothing reads is a promise that is not kept."""
    # `insecure` does its whole work where the configuration is checked.
    readers = [path for path in SOURCES if name_of(path) not in ("config.py", "settings.py")]
    read = {
        item.attr for path in readers for item in ast.walk(tree_of(path)) if isinstance(item, ast.Attribute)
    }
    report(
        [
            f"nothing reads {name}"
            for name, option in SETTINGS.items()
            if option.field not in read | {"insecure"}
        ]
    )


def test_coroutines_are_run_without_a_plugin():
    """asyncio.run in the test says what happens; a plugin's loop, policy and warnings are its own."""
    report(
        [
            f"{path.relative_to(ROOT)}:{item.lineno}: {dotted(item)}"
            for path in sorted((ROOT / "tests").rglob("*.py"))
            for item in ast.walk(tree_of(path))
            if isinstance(item, ast.Attribute)
            and dotted(item) in ("pytest.mark.asyncio", "pytest_asyncio.fixture")
        ]
    )
