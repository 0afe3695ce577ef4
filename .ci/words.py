#!/usr/bin/env python3
"""The word check: English that a native engineer would not write, and names that say nothing.

It reads comments, docstrings and texts of the product's code, of examples and benchmarks, and the pages of
the documentation; what stands between backticks is code and is left alone. `words.counts` beside this file
holds how many hits each file may still have. A count may only fall: one hit more is an error, and a new file
may have none. A file that was moved or split brings its hits along, as long as the sum does not grow.

    .ci/words.py            check, as `make lint` does
    .ci/words.py PATH...    show every hit in these files or folders
    .ci/words.py --lower    write the counts as they are now, where they fell
    .ci/words.py --totals   hits per rule and per folder
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ROOT / ".ci" / "words.counts"
CODE = ("schemas", "objects", "streams", "api", "src", "examples", "bench")
PAGES = ("*.md", "docs/**/*.md", "compose/*.md", "findings/*.md")
GENERATED = ("bench/results.md",)


@dataclass(frozen=True)
class Words:
    """A pattern of prose: what it matches, what to write in its place, why, and a text that it must catch."""

    name: str
    pattern: str
    better: str
    reason: str
    example: str


PROSE = (
    Words(
        "is-no",
        r"(?<!\bthere )\b(?:is|are|was|were|be|been|being|isn't|becomes?)\s+no\s+"
        r"(?!longer\b|more\b|less\b|fewer\b|one\b|\w+er\s+than\b|need\b|matter\b)[\w`\"'{<]",
        "is not a …",
        "English negates the verb: 'is no X' is a value judgement ('he is no friend')",
        'the text "24" is no duration',
    ),
    Words(
        "who",
        r"\b(?:whoever|whomever|whosoever|whom)\b",
        "the role: client, operator, caller, owner, node",
        "the reader cannot tell which part of the system acts",
        "Whoever holds the lock writes",
    ),
    Words(
        "who-clause",
        r"(?:^|\n\s*\n|[|.:;(]\s+|\b(?:by|for|to|of|from|and|or|but)\s+)who\s+(?!\w+\?)[^?.\n]*(?:[.;,\n]|$)",
        "the role: client, operator, caller, owner, node",
        "a clause with 'who' for a subject hides which part of the system acts",
        "Who gave the job folds the rest itself.",
    ),
    Words(
        "asked",
        r"\b(?:is|are|was|were|be|been|being)\s+asked\b(?!\s+to\b)",
        "is requested, receives a request for",
        "says neither what is requested nor how",
        "what nothing here is asked with",
    ),
    Words(
        "else-clause",
        r"[,;:]\s+(?:or\s+)?else\s",
        "otherwise",
        "'else' is a word of programs; in a sentence it is 'otherwise' or 'if not'",
        "It is read as JSON, else as a string",
    ),
    Words(
        "nobody",
        r"\b(?:nobody|somebody|anybody|everybody)\b",
        "the role: no client, an operator, any caller",
        "programs are not persons, and the reader cannot tell which part of the system acts",
        "a reply that nobody waits for",
    ),
    Words(
        "told",
        r"\b(?:is|are|was|were|be|been|being|gets?)\s+(?:\w+ly\s+)?told\b(?!\s+apart\b)",
        "is notified of, receives, is given",
        "says neither what is passed nor how",
        "The gateway is told when the owner ends",
    ),
    Words(
        "anew",
        r"\b(?:anew|afresh)\b",
        "again, from scratch",
        "poetic; native engineers say it in other words",
        "The node folds the partition anew",
    ),
    Words(
        "comes-to",
        r"(?<!when it )\b(?:comes|come|came|coming)\s+to\b(?!\s+(?:an\s+end|a\s+stop|a\s+halt|rest)\b)",
        "becomes, results in, adds up to; arrives at, reaches",
        "a literal translation with four meanings",
        "What the batch comes to in the store",
    ),
    Words(
        "trailing-else",
        r"(?<!thing\s)(?<!\bone\s)(?<!where\s)(?<!who\s)(?<!what\s)(?<!body\s)\belse\s*(?:[.;)]|$)",
        "otherwise, at the front of its own clause",
        "the reader learns of the condition after the sentence is over",
        "It is parked, or refused else.",
    ),
    Words(
        "of-before",
        r"\b(?:of|from|than) before\b(?!\s+(?:the|a|an|it|this|that|its|any|each|\w+ing)\b)",
        "the previous …, earlier …",
        "'before' is not a noun",
        "the code of before",
    ),
    Words("for-ever", r"\bfor ever\b", "forever", "one word in today's English", "It would be sent for ever"),
    Words(
        "may-everything",
        r"\b(?:may|can)\s+(?:everything|anything|nothing)\b",
        "may do …, has every right",
        "a verb is missing",
        "An admin may everything",
    ),
    Words(
        "archaic",
        r"\b(?:thereof|therein|thereupon|whereupon|wherein|whereof|hitherto|naught|nought|betimes|lest)\b",
        "the plain word: of it, in it, then, until now, nothing, so that … not",
        "legal or poetic",
        "the log and the rows thereof",
    ),
    Words(
        "such-as",
        r"\b(?:one|ones|such)\s+as\s+(?:is|are|was|were|has|have|had|begins?|does|do)\b|\bthat which\b",
        "one that …, those that …",
        "a relative clause begins with 'that'",
        "such as begins with a hyphen",
    ),
)

# As a whole word of a name; `found` only as the whole name, since `not_found` is the name of a status.
NAMES = {"told": "", "tell": "", "tells": "", "asked": "", "came": "", "found": "whole"}
NAMES_BETTER = "result, reply, message, notify, request, outcome, match"
VAGUE_CLASS = re.compile(r"(?:Of|From|By|What|How|Who|Where|Whether)\b")


@dataclass(frozen=True)
class Hit:
    """One place where a rule is broken."""

    path: str
    line: int
    rule: str
    text: str
    better: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r}: write {self.better} ({self.rule}: {self.reason})"


def prose_hits(path: str, line: int, text: str) -> Iterator[Hit]:
    """The rules of prose on one text, which begins at the given line of its file."""
    plain = re.sub(r"``[^`]*``|`[^`\n]*`", lambda span: "`" + "_" * (len(span[0]) - 2) + "`", text)
    # "there may be no", "there is still no"
    plain = re.sub(r"\b([Tt]here(?:\s+\w+){1,3}?\s+)no\b", lambda m: m[1] + "__", plain)
    for rule in PROSE:
        for match in re.finditer(rule.pattern, plain, re.IGNORECASE):
            at = line + plain.count("\n", 0, match.start() + len(match[0]) - len(match[0].lstrip()))
            shown = " ".join(plain[max(0, match.start() - 20) : match.end() + 20].split())
            yield Hit(path, at, rule.name, shown, rule.better, rule.reason)


def texts(tree: ast.Module, source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, texts and comments of a module, each with its first line; an
    f-string's values become `{}`.
    """
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside.update(id(each) for each in ast.walk(node) if each is not node)
            if id(node) not in inside:
                parts = (each.value if isinstance(each, ast.Constant) else "{}" for each in node.values)
                yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value
    last, first, block = -1, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        said = token.string.lstrip("#: ")
        if token.start[0] == last + 1 and block:
            block += "\n" + said
        else:
            if block:
                yield first, block
            first, block = token.start[0], said
        last = token.start[0]
    if block:
        yield first, block


def named(node: ast.AST) -> str:
    """The name that a node gives to something, or an empty text."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    if isinstance(node, ast.alias):
        return node.asname or ""
    return ""


def syntax_hits(path: str, tree: ast.Module) -> Iterator[Hit]:
    """The rules that need the syntax: names, docstrings of classes and of predicates."""
    for node in ast.walk(tree):
        name = named(node)
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        for word in words:
            if word in NAMES and (not NAMES[word] or len(words) == 1):
                line = getattr(node, "lineno", 1)
                yield Hit(path, line, "name", name, NAMES_BETTER, "a verb's form says nothing of the value")
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if isinstance(node, ast.ClassDef):
                if VAGUE_CLASS.match(first):
                    yield Hit(
                        path,
                        node.lineno,
                        "class",
                        first,
                        "what it is: 'The alarm turns of one partition.'",
                        "a class is a thing",
                    )
            elif first.endswith("?"):
                yield Hit(
                    path,
                    node.lineno,
                    "predicate",
                    first,
                    "'True if …'",
                    "a docstring states what the function returns",
                )


def python_hits(path: str, source: str) -> Iterator[Hit]:
    """All rules on a module of Python."""
    tree = ast.parse(source)
    for line, text in texts(tree, source):
        yield from prose_hits(path, line, text)
    yield from syntax_hits(path, tree)


def page_hits(path: str, source: str) -> Iterator[Hit]:
    """The rules of prose on a page of Markdown, whose fenced blocks are left alone."""
    fence = re.compile(r"^( *)(```+)[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
    yield from prose_hits(path, 1, fence.sub(lambda block: "\n" * block[0].count("\n"), source))


def files(under: list[str]) -> Iterator[Path]:
    """The files that are checked, each once; with `under`, only those below these paths."""
    paths = [path for folder in CODE for path in (ROOT / folder).rglob("*.py") if not path.is_symlink()]
    paths += [path for pattern in PAGES for path in ROOT.glob(pattern)]
    wanted = [Path(each).resolve() for each in under]
    for path in sorted({path for path in paths if path.resolve() == path}):
        if str(path.relative_to(ROOT)) in GENERATED:
            continue
        if not wanted or any(path == each or each in path.parents for each in wanted):
            yield path


def hits(under: list[str]) -> Iterator[Hit]:
    """Every hit in the files that are checked."""
    for path in files(under):
        check = python_hits if path.suffix == ".py" else page_hits
        yield from check(str(path.relative_to(ROOT)), path.read_text())


def read_counts() -> Counter[str]:
    """How many hits each file may have."""
    lines = COUNTS.read_text().splitlines() if COUNTS.exists() else []
    return Counter({path: int(count) for path, _, count in (line.rpartition(" ") for line in lines)})


def excess(now: Counter[str], allowed: Counter[str], exists: Callable[[str], bool]) -> list[str]:
    """The files with more hits than they may have. Files that are gone leave their hits to new ones."""
    spare = sum(count for path, count in allowed.items() if not exists(path))
    wrong = []
    for path, count in sorted(now.items()):
        more = count - allowed[path]
        if more > 0 and path not in allowed and more <= spare:
            spare -= more
        elif more > 0:
            wrong.append(path)
    return wrong


def main() -> int:
    """Check, show, count or lower; returns the exit status."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--lower", action="store_true")
    parser.add_argument("--totals", action="store_true")
    options = parser.parse_args()
    every = list(hits(options.paths))
    now = Counter(hit.path for hit in every)
    if options.totals:
        for count in (
            Counter(hit.rule for hit in every),
            Counter(hit.path.rpartition("/")[0] for hit in every),
        ):
            print(*(f"{number:5} {name or '.'}" for name, number in count.most_common()), sep="\n")
        print(f"{len(every):5} in all")
        return 0
    if options.paths:
        print(*every, sep="\n")
        return 0
    allowed = read_counts()
    wrong = excess(now, allowed, lambda path: (ROOT / path).exists()) if COUNTS.exists() else []
    for hit in every:
        if hit.path in wrong:
            print(hit)
    for path in wrong:
        print(f"{path}: {now[path]} hits, where {allowed[path]} are allowed", file=sys.stderr)
    if wrong:
        return 1
    if options.lower:
        COUNTS.write_text("".join(f"{path} {count}\n" for path, count in sorted(now.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
