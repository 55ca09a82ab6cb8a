"""Who goes first: every order is one in which nobody comes before what it depends on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.dependencies import circles, dependents, in_order

NAMES = [f"job{number}" for number in range(9)]

graphs = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from([*NAMES, "elsewhere"])))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, list[str]]:
    """Give a graph without circles, in an order of the file that need not be one of the start."""
    ranked = draw(st.permutations(NAMES))
    needs = {
        name: draw(st.lists(st.sampled_from([*ranked[:rank], "elsewhere"]), unique=True))
        for rank, name in enumerate(ranked)
    }
    return {name: needs[name] for name in draw(st.permutations(NAMES))}


def reachable(graph: dict[str, list[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        for need in graph.get(ahead.pop(), ()):
            if need in graph and need not in found:
                found.add(need)
                ahead.append(need)
    return found


@given(trees())
def test_everybody_stands_behind_what_it_depends_on(graph: dict[str, list[str]]) -> None:
    order = in_order(graph)
    assert sorted(order) == sorted(graph)
    for name, needs in graph.items():
        assert all(order.index(need) < order.index(name) for need in needs if need in graph)
    assert not circles(graph)


@given(graphs)
def test_who_could_never_start_is_in_no_order(graph: dict[str, list[str]]) -> None:
    lost = {
        name
        for name in graph
        if any(one in reachable(graph, one) for one in {name, *reachable(graph, name)})
    }
    assert set(in_order(graph)) == graph.keys() - lost


@given(graphs)
def test_circles_are_told_until_none_is_left(graph: dict[str, list[str]]) -> None:
    found = circles(graph)
    for circle in found:
        for name, need in zip(circle, (*circle[1:], circle[0]), strict=True):
            assert need in graph[name]
        assert circle[0] == min(circle, key=list(graph).index)
    members = [name for circle in found for name in circle]
    assert len(members) == len(set(members))
    left = {
        name: [need for need in needs if need != name]
        for name, needs in graph.items()
        if name not in members
    }
    assert not circles(left)
    assert len(in_order(left)) == len(left), "without them everybody could start"


@given(trees())
def test_dependents_are_all_who_reach_it(graph: dict[str, list[str]]) -> None:
    found = dependents(graph)
    assert found.keys() == graph.keys()
    for name in graph:
        assert found[name] == {other for other in graph if name in reachable(graph, other)}


def test_without_dependencies_the_order_is_that_of_the_file() -> None:
    assert in_order(dict.fromkeys(reversed(NAMES), ())) == NAMES[::-1]


def test_a_chain_of_thousands_is_no_matter() -> None:
    names = [f"j{number}" for number in range(4096)]
    chain = {name: [names[number + 1]] for number, name in enumerate(names[:-1])}
    chain[names[-1]] = []
    assert in_order(chain) == names[::-1]
    chain[names[-1]] = [names[0]]
    assert circles(chain) == [tuple(names)]
