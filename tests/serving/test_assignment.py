"""Who is given what."""

from langwright.serving.assignment import LEASE_SECONDS, Assignment


def test_assignment() -> None:
    """Each item to as many as are asked for, to nobody twice; what is held or done goes to no other."""
    now = 0.0
    given = Assignment("abc", 1, lambda: now)
    assert [given.next(name) for name in ("anna", "ben", "anna")] == ["a", "b", "a"]
    given.note("a", "anna", skipped=False)
    assert (given.next("anna"), given.next("carla"), given.left("carla")) == ("c", None, 2)
    given.note("b", "ben", skipped=True)  # is left to others
    assert (given.next("ben"), given.next("carla")) == (None, "b")
    now += LEASE_SECONDS + 1  # who leaves gives up what was theirs
    assert (given.next("dora"), given.next("ben")) == ("b", "c")
    given.note("c", "ben", skipped=False)
    given.note("c", "ben", skipped=True)  # changed their mind
    assert given.next("carla") == "c"
    given.note("unknown", "ben", skipped=False)

    double = Assignment("ab", 2, lambda: now)
    assert [double.next(name) for name in ("anna", "ben", "carla")] == ["a", "a", "b"]
    for name in ("anna", "ben"):
        double.note("a", name, skipped=False)
    assert [(double.next(name), double.left(name)) for name in ("anna", "carla", "ben")] == [
        ("b", 1), ("b", 1), (None, 1),
    ]  # fmt: skip
