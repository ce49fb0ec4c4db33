"""Libraries that hold a text to a grammar: seconds to compile, microseconds for the mask of a token, hostile input.

    python benchmarks/grammars.py FOLDER          # llguidance, and xgrammar where it is installed

Masks are timed along one text that fits. Every hostile case runs in a process of its own for at most 20 seconds.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from langwright import load_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 8},
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "number": {"type": "integer"}}},
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
TEXT = {
    "name": "Ada Lovelace of Ockham Park",
    "age": 36,
    "tags": ["red", "blue"],
    "address": {"street": "St James's Square, near the library of London", "number": 12},
}
COMPACT = json.dumps(TEXT, separators=(",", ":"))
DATE = r"(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"


def nested(depth: int) -> str:
    """A schema of objects within objects."""
    return '{"type":"object","properties":{"a":' * depth + '{"type":"integer"}' + "}}" * depth


CASES = {
    "10,000 objects deep": ("json", nested(10_000)),
    "a reference to itself": ("json", '{"$ref": "#"}'),
    "references in a circle": (
        "json",
        '{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}',
    ),
    "100,000 choices": ("json", json.dumps({"enum": [f"choice {i}" for i in range(100_000)]})),
    "maxLength 10**9": ("json", '{"type":"string","maxLength":1000000000}'),
    "minItems 10**6": ("json", '{"type":"array","items":{"type":"integer"},"minItems":1000000}'),
    "a schema that nothing fits": ("json", '{"type":"integer","minimum":2,"maximum":1}'),
    "an unknown type": ("json", '{"type":"strin"}'),
    "no JSON": ("json", "{"),
    "(a{1000}){1000}": ("regex", "(a{1000}){1000}"),
    "(a|a)*b after 30 a": ("regex", "(a|a)*b"),
    "(.*a){50}": ("regex", "(.*a){50}"),
    "an open bracket": ("regex", "(ab"),
}


def llguidance(path: str) -> Callable[[str, str], Callable[[int | None], np.ndarray]]:
    """Compile(kind, source) -> next(token) -> mask."""
    from llguidance import LLMatcher

    from langwright.inference.constraints import vocabulary_of

    tokens = vocabulary_of(load_tokenizer(path))

    def compile(kind: str, source: str) -> Callable[[int | None], np.ndarray]:
        if kind == "json":
            made = LLMatcher.grammar_from_json_schema(source, overrides={"whitespace_flexible": False})
        else:
            made = LLMatcher.grammar_from_regex(source)
        matcher = LLMatcher(tokens, made, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error().splitlines()[0][:100])

        def mask(token: int | None) -> np.ndarray:
            if token is not None and not matcher.consume_token(token):
                raise ValueError(matcher.get_error()[:100])
            return np.frombuffer(matcher.compute_bitmask(), np.int32)

        return mask

    return compile


def xgrammar(path: str) -> Callable[[str, str], Callable[[int | None], np.ndarray]]:
    """The same."""
    import xgrammar as xgr

    tokenizer = load_tokenizer(path)
    vocabulary = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
    info = xgr.TokenizerInfo(vocabulary, xgr.VocabType.RAW, stop_token_ids=list(tokenizer.ends))
    compiler = xgr.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(kind: str, source: str) -> Callable[[int | None], np.ndarray]:
        made = (
            compiler.compile_json_schema(source, any_whitespace=False, separators=(",", ":"))
            if kind == "json"
            else compiler.compile_regex(source)
        )
        matcher, bits = xgr.GrammarMatcher(made), xgr.allocate_token_bitmask(1, tokenizer.vocab_size)

        def mask(token: int | None) -> np.ndarray:
            if token is not None and not matcher.accept_token(token):
                raise ValueError("refused")
            matcher.fill_next_token_bitmask(bits)
            return np.asarray(bits.numpy()[0])

        return mask

    return compile


LIBRARIES = {"llguidance": llguidance, "xgrammar": xgrammar}


def timed(name: str, path: str) -> None:
    """Print how long a library takes."""
    compile = LIBRARIES[name](path)
    tokenizer = load_tokenizer(path)
    for kind, source, text in (("json", json.dumps(PERSON), COMPACT), ("regex", DATE, "1984-10-31")):
        compiled, masks = [], []
        for _ in range(10):
            began = time.perf_counter()
            mask = compile(kind, source)
            compiled.append(time.perf_counter() - began)
            for token in [None, *tokenizer.encode(text)]:
                began = time.perf_counter()
                mask(token)
                masks.append(1e6 * (time.perf_counter() - began))
        print(
            f"{name} {kind}: compiled in {1000 * statistics.median(compiled):.1f} ms (first {1000 * compiled[0]:.1f}), "
            f"a mask takes {statistics.median(masks):.0f} us, 99 % within {np.percentile(masks, 99):.0f}"
        )


def hostile(name: str, path: str, case: str) -> None:
    """Compile a case, and follow it for 40 tokens."""
    import resource

    kind, source = CASES[case]
    began = time.perf_counter()
    try:
        mask = LIBRARIES[name](path)
        began = time.perf_counter()
        step = mask(kind, source)
        after = step(None)
        for _ in range(40):
            allowed = np.flatnonzero(np.unpackbits(after.view(np.uint8), bitorder="little"))
            if not len(allowed):
                print("no token is allowed", end=" ")
                break
            after = step(int(allowed[0]))
        told = "accepted"
    except Exception as error:
        told = f"refused: {str(error).splitlines()[0][:90]}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{told} ({1000 * (time.perf_counter() - began):.0f} ms, {memory} MB)")


def main() -> None:
    """Time each library, then show it what is hostile."""
    path, *case = sys.argv[1:]
    if case:
        hostile(case[0], path, case[1])
        return
    for name in LIBRARIES:
        try:
            __import__(name)
        except ImportError:
            print(f"{name} is not installed")
            continue
        timed(name, path)
        for title in CASES:
            command = [sys.executable, __file__, path, name, title]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
                told = done.stdout.strip() or f"died with {done.returncode}: {done.stderr.strip()[-80:]}"
            except subprocess.TimeoutExpired:
                told = "not done after 20 s"
            print(f"  {name}, {title}: {told}")


if __name__ == "__main__":
    main()
