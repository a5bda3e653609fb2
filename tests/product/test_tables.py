"""Tables and prose for people: no blanks at the end of lines, names that stay apart, words that stay whole."""

import io

import pytest

from sparsec.cli import tables

PROSE = "2 layers run without kernels: ONNX's reference computes them where the run tells the sizes, /a/b/LSTM and more"


@pytest.fixture
def printed(monkeypatch):
    """A function that prints to a terminal, or into a pipe, of a width and returns the lines."""
    def lines(width, show, *, terminal=False):
        file = io.StringIO()
        console = type(tables.console)(highlight=False, markup=False, width=width, file=file, force_terminal=terminal,
                                       color_system=None)
        monkeypatch.setattr(tables, "console", console)
        show()
        return file.getvalue().splitlines()

    return lines


@pytest.mark.parametrize("terminal", [True, False])
def test_no_line_of_a_table_ends_in_blanks(printed, terminal):
    rows = [("/encoder/layer/0/dense", "12", "us"), ("短い", "3", "")]
    lines = printed(24, lambda: tables.print_table(("layer", "time", "unit"), rows, ("2 layers", "15", "")),
                    terminal=terminal)
    assert lines == [line.rstrip() for line in lines]
    assert len(lines) == len(rows) + 2
    assert any("encoder/layer/0/dense" in line for line in lines) is not terminal


@pytest.mark.parametrize("width", [24, 40, 60])
def test_columns_without_room_follow_below_and_none_is_cut_in_a_pipe(printed, width):
    columns = ("layer", *(f"column {number}" for number in range(5)))
    rows = [(f"/encoder/layer/{number}/dense", *("1234.5 us" for _ in range(5))) for number in range(3)]
    lines = printed(width, lambda: tables.print_table(columns, rows, ("3 layers", *["sum"] * 5)), terminal=True)
    assert max(map(len, lines)) <= width
    assert sum(line.count("1234.5 us") for line in lines) == 15
    assert all(sum(column in line for line in lines) == 1 for column in columns[1:])
    assert len(printed(width, lambda: tables.print_table(columns, rows))) == 4


def test_what_timing_chose_is_told_beside_the_prediction():
    well = {"format": "well", "kernel": "f32", "instead_of": ["csr", "spmm"]}
    rows = [{"layer": "l0", **well}, {"layer": "l1", **well},
            {"layer": "m", "format": "csr", "kernel": "a", "instead_of": ["csr", "b"]}, {"layer": "n", "format": "csr"}]
    assert tables.timed(rows) == ["timed: well instead of csr (predicted): l0, l1",
                                  "timed: csr a instead of csr b (predicted): m"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_prose_wraps_between_words(printed, width):
    lines = printed(width, lambda: tables.console.print(f"{PROSE}\n\n{PROSE}"))
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == f"{PROSE} {PROSE}".split()
    assert lines.count("") == 1


@pytest.mark.parametrize("quantity", ["100 %", "1.1 MB", "12.5 us"])
def test_no_line_ends_between_a_number_and_its_unit(printed, quantity):
    for width in range(20, 30):
        lines = printed(width, lambda: tables.console.print(f"{PROSE} {quantity} left"))
        assert any(quantity in line for line in lines)


def test_a_command_to_be_copied_stays_whole(printed):
    assert printed(20, lambda: tables.console.print(PROSE, soft_wrap=True)) == [PROSE]


def test_errors_that_float32_cannot_show_have_no_digits():
    assert [tables.error(value) for value in (0.0, 3.1e-42, 6.1e-8)] == ["0", "below 1e-9", "6.1e-08"]


def test_what_stays_as_it_is_is_told_once():
    assert tables.changed("32", "30") == "32 > 30"
    assert tables.changed(tables.millions(2000), tables.millions(1990)) == "0.002"
    assert [tables.told(count, "units removed") for count in (1, 1200)] == ["1 unit removed", "1,200 units removed"]


@pytest.mark.parametrize(("network_us", "told"), [(8.0, True), (12.0, False)])
def test_a_network_that_takes_less_than_its_layers_is_explained(network_us, told):
    assert ("one by one" in tables.overlapping(network_us, 10.0)) is told
