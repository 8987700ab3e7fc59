"""Peak memory of graphs small enough to count by hand."""

from edgekd.inspect.memory import PeakMemory, peak_memory
from tests.inspect.graphs import graph, operator, tensor


def test_a_chain_needs_two_neighbours_at_once() -> None:
    sizes = [tensor("x", (100,), "int8"), tensor("a", (30,), "int8"), tensor("b", (200,), "int8"), tensor("y", (10,), "int8")]
    made = graph(sizes, [operator("RELU", "x", "a"), operator("RELU", "a", "b"), operator("RELU", "b", "y")], "x", "y")
    assert peak_memory(made) == PeakMemory(30 + 200, "b", 0)


def test_a_branch_is_kept_until_it_is_joined() -> None:
    sizes = [tensor("x", (10,), "int8"), tensor("a", (100,), "int8"), tensor("b", (20,), "int8"), tensor("c", (50,), "int8"),
             tensor("y", (100,), "int8")]  # fmt: skip
    operators = [
        operator("RELU", "x", "a"),
        operator("CONV_2D", "a", "b"),
        operator("RELU", "b", "c"),
        operator("ADD", "a c", "y"),
    ]
    # At the third operator a waits for the fourth: a + b + c; at the fourth a + c + y.
    assert peak_memory(graph(sizes, operators, "x", "y")) == PeakMemory(100 + 50 + 100, "y", 0)
    assert peak_memory(graph(sizes, operators[:3], "x", "c")) == PeakMemory(100 + 20, "b", 0)


def test_outputs_stay_to_the_end_and_unread_ones_for_their_operator() -> None:
    sizes = [
        tensor("x", (10,), "int8"),
        tensor("early", (100,), "int8"),
        tensor("waste", (1000,), "int8"),
        tensor("y", (200,), "int8"),
    ]
    operators = [operator("RELU", "x", "early"), operator("SPLIT", "x", "b waste"), operator("RELU", "b", "y")]
    sizes.append(tensor("b", (1,), "int8"))
    assert peak_memory(graph(sizes, operators, "x", "early y")) == PeakMemory(10 + 100 + 1 + 1000, "b", 0)
    assert peak_memory(graph(sizes, operators, "x", "y")).bytes == 10 + 1 + 1000


def test_weights_and_what_is_computed_from_them_are_left_out() -> None:
    sizes = [tensor("x", (4,)), tensor("w", (999,), role="weight"), tensor("d", (999,), role="derived"), tensor("y", (8,))]
    operators = [operator("DEQUANTIZE", "w", "d"), operator("CONV_2D", "x d", "y")]
    assert peak_memory(graph(sizes, operators, "x", "y")) == PeakMemory(4 * 4 + 8 * 4, "y", 0)


def test_unknown_sizes_are_told() -> None:
    sizes = [tensor("x", (4,)), tensor("a", (None, 4)), tensor("b", None), tensor("y", (1,))]
    operators = [operator("RELU", "x", "a"), operator("RELU", "a", "b"), operator("RELU", "b", "y")]
    assert peak_memory(graph(sizes, operators, "x", "y")) == PeakMemory(16, "a", 2)


def test_a_graph_without_operators_holds_its_inputs() -> None:
    assert peak_memory(graph([tensor("x", (4,))], [], "x", "x")) == PeakMemory(16, "", 0)
