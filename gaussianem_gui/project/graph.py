"""STAR tables as RELION writes them, and the project's graph of jobs and files made from them.

Unknown blocks and columns are kept as they are. Pure functions and data; locking and writing the file are in ``lock``,
``graph_file`` and ``project``. Source: RELION's ``default_pipeline.star`` (version 50001).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.io.star import split_row

GRAPH = "default_pipeline.star"
VERSION_LINE = "# version 50001"

_PLAIN = re.compile(r"[^\s\"'#$_;\[\]{}][^\s\"'#]*\Z")
_RESERVED = ("data_", "loop_", "global_", "save_", "stop_")


@dataclass
class Table:
    """One ``data_`` block: columns (without the leading underscore) and rows of strings."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    is_list: bool = False  # pairs instead of a loop: exactly one row

    def get(self, column: str, default: str = "") -> str:
        """Value of ``column`` in a list block."""
        return self.rows[0][self.columns.index(column)] if self.rows and column in self.columns else default

    def column(self, name: str) -> list[str]:
        """All values of a column; empty if there is no such column."""
        if name not in self.columns:
            return []
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def quote(value: str) -> str:
    """``value`` as one STAR word, quoted only when it must be.

    Raises InputError for a line break, and for text that no quotes can hold.
    """
    # A lone . or ? is CIF's "nothing": ccpem-pipeliner reads it so.
    if _PLAIN.match(value) and not value.lower().startswith(_RESERVED) and value not in (".", "?"):
        return value
    if "\n" in value or "\r" in value:
        raise InputError("value", "must be one line", repr(value), "Remove the line break.")
    for mark in ('"', "'"):
        # A mark inside ends the word only if a blank follows it.
        if mark not in value or not re.search(mark + r"(\s|$)", value):
            return mark + value + mark
    raise InputError(
        "value",
        "must not hold both kinds of quotes before a blank",
        value,
        "Rename the file or change the text.",
    )


def _words(line: str) -> list[str]:
    """Words of one STAR line, without quotes and comment."""
    words = split_row(line.encode("utf-8", "surrogateescape"))
    return [word.decode("utf-8", "surrogateescape") for word in words]


def parse(text: str) -> dict[str, Table]:
    """Blocks of a STAR file by name (without ``data_``), in order.

    Raises ValueError with the line number where a row has too few or too many words, or text stands outside a block.
    """
    blocks: dict[str, Table] = {}
    table: Table | None = None
    in_loop = in_rows = False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped[0] == "#":
            continue
        if stripped.startswith("data_"):
            table = blocks[stripped[5:].split()[0] if len(stripped) > 5 else ""] = Table()
            in_loop = in_rows = False
        elif table is None:
            raise ValueError(f"line {number} stands outside a data block")
        elif stripped.startswith("loop_"):
            in_loop = True
        elif stripped[0] == "_" and not in_rows:
            words = _words(stripped)
            if in_loop:
                table.columns.append(words[0][1:])
            else:
                if len(words) != 2:
                    raise ValueError(f"line {number} must hold a name and a value")
                table.is_list = True
                table.columns.append(words[0][1:])
                if not table.rows:
                    table.rows.append([])
                table.rows[0].append(words[1])
        elif in_loop:
            in_rows = True
            words = _words(stripped)
            if len(words) != len(table.columns):
                raise ValueError(f"line {number} holds {len(words)} words for {len(table.columns)} columns")
            table.rows.append(words)
        else:
            raise ValueError(f"line {number} belongs to nothing")
    return blocks


def render(blocks: dict[str, Table]) -> str:
    """The text of a STAR file; parse(render(blocks)) == blocks. Raises InputError as :func:`quote`."""
    lines = []
    for name, table in blocks.items():
        lines += ["", VERSION_LINE, "", f"data_{name}", ""]
        if table.is_list:
            lines += [f"_{column}    {quote(value)}" for column, value in zip(table.columns, table.rows[0])]
        else:
            lines += ["loop_ ", *(f"_{column} #{number} " for number, column in enumerate(table.columns, start=1))]
            lines += [" ".join(f"{quote(value):>12}" for value in row) + " " for row in table.rows]
        lines.append(" ")
    return "\n".join(lines) + "\n"


@dataclass
class Process:
    """A job in the graph. ``alias`` is "" or ``Type/alias/``; ``extra`` holds columns that are not RELION's."""

    name: str
    type_label: str
    status: str
    alias: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Job number, or 0 where the name has none."""
        return job_number(self.name)


def job_number(name: str) -> int:
    """3 for ``Train/job003/``; 0 if the last part is not of that form."""
    match = re.fullmatch(r"job(\d+)", name.rstrip("/").rsplit("/", 1)[-1])
    return int(match.group(1)) if match else 0


_PROCESS = [
    "rlnPipeLineProcessName",
    "rlnPipeLineProcessAlias",
    "rlnPipeLineProcessTypeLabel",
    "rlnPipeLineProcessStatusLabel",
]
_NODE = ["rlnPipeLineNodeName", "rlnPipeLineNodeTypeLabel"]
_INPUT = ["rlnPipeLineEdgeFromNode", "rlnPipeLineEdgeProcess"]
_OUTPUT = ["rlnPipeLineEdgeProcess", "rlnPipeLineEdgeToNode"]
_OURS = ("pipeline_general", "pipeline_processes", "pipeline_nodes", "pipeline_input_edges", "pipeline_output_edges")


class Graph:
    """Jobs, files and edges of a project; blocks and columns that this program does not know are kept.

    ``nodes`` maps a file to its label; edges are ordered sets: (file, job) for inputs, (job, file) for outputs.
    """

    def __init__(self) -> None:
        self.counter = 1
        self.processes: dict[str, Process] = {}
        self.nodes: dict[str, str] = {}
        self.node_extra: dict[str, dict[str, str]] = {}
        self.input_edges: dict[tuple[str, str], None] = {}
        self.output_edges: dict[tuple[str, str], None] = {}
        self.extra_blocks: dict[str, Table] = {}
        self.general_extra: dict[str, str] = {}
        self.process_columns: list[str] = list(_PROCESS)
        self.node_columns: list[str] = list(_NODE)
        self._lists: tuple[dict[str, list[str]], dict[str, list[str]]] | None = None

    def _by_process(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Inputs and outputs of every job; made once, and again after a change by the methods below."""
        if self._lists is None:
            inputs: dict[str, list[str]] = {}
            outputs: dict[str, list[str]] = {}
            for node, process in self.input_edges:
                inputs.setdefault(process, []).append(node)
            for process, node in self.output_edges:
                outputs.setdefault(process, []).append(node)
            self._lists = inputs, outputs
        return self._lists

    def find(self, key: str) -> Process | None:
        """The job with that name or alias (``Type/alias``, the slash at the end may be left out)."""
        key = key.rstrip("/") + "/"
        if key in self.processes:
            return self.processes[key]
        return next((p for p in self.processes.values() if p.alias and p.alias.rstrip("/") + "/" == key), None)

    def inputs(self, name: str) -> list[str]:
        """Files that job ``name`` reads."""
        return list(self._by_process()[0].get(name, ()))

    def outputs(self, name: str) -> list[str]:
        """Files that job ``name`` wrote."""
        return list(self._by_process()[1].get(name, ()))

    def links(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Parents and children of every job, each a dict from job to jobs."""
        maker = {node: process for process, node in self.output_edges}
        parents: dict[str, list[str]] = {name: [] for name in self.processes}
        children: dict[str, list[str]] = {name: [] for name in self.processes}
        for node, process in self.input_edges:
            made_by = maker.get(node)
            if made_by and made_by != process and process in parents and made_by not in parents[process]:
                parents[process].append(made_by)
                children.setdefault(made_by, []).append(process)
        return parents, children

    def add_output(self, process: str, node: str, label: str) -> None:
        """Record that ``process`` wrote ``node``."""
        self.nodes[node] = label
        self.output_edges.pop((process, node), None)  # the last written comes last
        self.output_edges[process, node] = None
        self._lists = None

    def add_input(self, process: str, node: str, label: str) -> None:
        """Record that ``process`` reads ``node``; a label that the node has already stays."""
        self.nodes.setdefault(node, label)
        self.input_edges[node, process] = None
        self._lists = None

    def drop_inputs(self, process: str) -> None:
        """Remove the input edges of ``process``, and files that then belong to no job."""
        gone = [edge for edge in self.input_edges if edge[1] == process]
        for edge in gone:
            del self.input_edges[edge]
        self._lists = None
        used = {node for node, _ in self.input_edges} | {node for _, node in self.output_edges}
        for node, _ in gone:
            if node not in used:
                self.nodes.pop(node, None)
                self.node_extra.pop(node, None)

    def drop_outputs(self, process: str, keep: Callable[[str], bool] = lambda node: False) -> None:
        """Remove output files of ``process`` that no job reads, except those for which ``keep`` is True."""
        used = {node for node, _ in self.input_edges}
        for node in self.outputs(process):
            if node not in used and not keep(node):
                del self.output_edges[process, node]
                self.nodes.pop(node, None)
                self.node_extra.pop(node, None)
        self._lists = None

    def remove(self, process: str) -> Graph:
        """Remove a job with its files and edges; returns them as a graph of its own, from which it can be restored."""
        part = Graph()
        part.counter = self.counter
        part.processes[process] = self.processes.pop(process)
        self._lists = None
        part.input_edges = {edge: None for edge in self.input_edges if edge[1] == process}
        part.output_edges = {edge: None for edge in self.output_edges if edge[0] == process}
        outputs = {node for _, node in part.output_edges}
        touched = [*outputs, *(node for node, _ in part.input_edges)]
        part.nodes = {node: self.nodes[node] for node in touched if node in self.nodes}
        self.input_edges = {e: None for e in self.input_edges if e[1] != process and e[0] not in outputs}
        self.output_edges = {e: None for e in self.output_edges if e[0] != process}
        used = {node for node, _ in self.input_edges} | {node for _, node in self.output_edges}
        for node in part.nodes:
            if node not in used:
                self.nodes.pop(node, None)
                self.node_extra.pop(node, None)
        return part

    def merge(self, part: Graph) -> None:
        """Add the jobs, files and edges of ``part`` that are not here yet."""
        for name, process in part.processes.items():
            self.processes.setdefault(name, process)
        for node, label in part.nodes.items():
            self.nodes.setdefault(node, label)
        self.input_edges.update(part.input_edges)
        self.output_edges.update(part.output_edges)
        self._lists = None
        self.counter = max([self.counter, part.counter, *(p.number + 1 for p in part.processes.values())])


def graph_from_text(text: str) -> Graph:
    """Read a graph. Raises ValueError saying what is damaged, InputError for a project of RELION 3 or older."""
    blocks = parse(text)
    graph = Graph()
    general = blocks.get("pipeline_general")
    if general is None or not general.get("rlnPipeLineJobCounter").isdigit():
        raise ValueError("the job counter is missing")
    graph.counter = int(general.get("rlnPipeLineJobCounter"))
    graph.general_extra = {c: general.get(c) for c in general.columns if c != "rlnPipeLineJobCounter"}
    for name, wanted in zip(_OURS[1:], (_PROCESS, _NODE, _INPUT, _OUTPUT)):
        table = blocks.get(name)
        if table is None or not table.columns:
            continue
        if name == "pipeline_processes" and "rlnPipeLineProcessTypeLabel" not in table.columns:
            if "rlnPipeLineProcessType" in table.columns and table.rows:
                raise InputError(
                    GRAPH,
                    "must be of RELION 4 or newer",
                    "the format of RELION 3",
                    "Make a new project beside it (gaussianem project new) and import the files. RELION 5 would "
                    "convert this one, but that cannot be undone: RELION 3 no longer opens it. Convert a copy, if at "
                    "all.",
                )
        missing = [column for column in wanted if column not in table.columns]
        if missing:
            raise ValueError(f"column {missing[0]} is missing")
        where = [table.columns.index(column) for column in wanted]
        extra = [(at, column) for at, column in enumerate(table.columns) if column not in wanted]
        if name == "pipeline_processes":
            graph.process_columns = list(table.columns)
            for row in table.rows:
                key, alias, label, status = (row[at] for at in where)
                key = key.rstrip("/") + "/"
                graph.processes[key] = Process(
                    key, label, status, "" if alias == "None" else alias, {c: row[at] for at, c in extra}
                )
        elif name == "pipeline_nodes":
            graph.node_columns = list(table.columns)
            for row in table.rows:
                graph.nodes[row[where[0]]] = row[where[1]]
                if extra:
                    graph.node_extra[row[where[0]]] = {c: row[at] for at, c in extra}
        else:
            edges = graph.input_edges if name == "pipeline_input_edges" else graph.output_edges
            edges.update(dict.fromkeys((row[where[0]], row[where[1]]) for row in table.rows))
    graph.extra_blocks = {name: table for name, table in blocks.items() if name not in _OURS}
    return graph


def graph_text(graph: Graph) -> str:
    """The text of ``default_pipeline.star``; the status column stays last, unknown columns keep their places."""
    blocks: dict[str, Table] = {
        "pipeline_general": Table(
            ["rlnPipeLineJobCounter", *graph.general_extra], [[str(graph.counter), *graph.general_extra.values()]], True
        )
    }
    if graph.processes:
        rows = []
        for process in graph.processes.values():
            known = dict(zip(_PROCESS, (process.name, process.alias or "None", process.type_label, process.status)))
            rows.append([known[c] if c in known else process.extra.get(c, "None") for c in graph.process_columns])
        blocks["pipeline_processes"] = Table(graph.process_columns, rows)
    if graph.nodes:
        rows = []
        for node, label in graph.nodes.items():
            known = {"rlnPipeLineNodeName": node, "rlnPipeLineNodeTypeLabel": label}
            known = {"rlnPipeLineNodeTypeLabelDepth": "1", **graph.node_extra.get(node, {}), **known}
            rows.append([known.get(c, "None") for c in graph.node_columns])
        blocks["pipeline_nodes"] = Table(graph.node_columns, rows)
    for name, columns, edges in (
        ("pipeline_input_edges", _INPUT, graph.input_edges),
        ("pipeline_output_edges", _OUTPUT, graph.output_edges),
    ):
        if edges:
            blocks[name] = Table(columns, [list(edge) for edge in edges])
    return render({**blocks, **graph.extra_blocks})


def read_graph(path: Path) -> Graph:
    """The graph in a file. Raises as :func:`graph_from_text`, and OSError if the file cannot be read."""
    return graph_from_text(path.read_text(encoding="utf-8", errors="surrogateescape"))


def damage(text: str, good: Graph | None = None, exists: Callable[[str], bool] = lambda name: True) -> str:
    """What is wrong with the text of a graph, as a clause; "" if nothing is.

    ``good`` is the last graph known to be whole, ``exists`` tells whether a job's directory is there: a file cut
    between two lines is recognised by comparison, a job that was deleted since is no damage. Raises InputError for a
    project of RELION 3 or older.
    """
    try:
        graph = graph_from_text(text)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        return str(error) if text.strip() else "the file is empty"
    if good is None or not good.processes:
        return ""
    gone = [name for name in good.processes if name not in graph.processes]
    lost = [name for name in gone if exists(name)]
    # Every writer ends a block with a blank line, so a last line with words in it is where the file was cut.
    cut = bool(text.rstrip("\n").rsplit("\n", 1)[-1].strip()) and not text.endswith("\n\n")
    tables = (
        ("jobs", graph.processes, good.processes),
        ("files", graph.nodes, good.nodes),
        ("input edges", graph.input_edges, good.input_edges),
        ("output edges", graph.output_edges, good.output_edges),
    )
    if cut and (lost or any(len(here) < len(there) for _, here, there in tables)):
        return "its end is missing"
    if lost and (graph.counter < good.counter or not graph.processes):
        return f"it lacks {len(lost)} jobs whose directories are there"
    if not gone:
        return next((f"its {name} are missing" for name, here, there in tables if there and not here), "")
    return ""
