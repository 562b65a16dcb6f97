"""Tables in markdown."""

import statistics


class Table:
    """A title, a sentence about it, and rows of equal length."""

    def __init__(self, title, about, columns):
        self.title, self.about, self.columns, self.rows = title, about, columns, []

    def row(self, *cells):
        self.rows.append([str(cell) for cell in cells])


def markdown(table):
    lines = [f"### {table.title}", "", table.about, ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + " --- |" + " ---: |" * (len(table.columns) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def median(rounds, figure):
    return statistics.median(each[figure] for each in rounds)


def quantile(values, part):
    """The value below which this part of all values is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def time(us):
    """Microseconds as people read them."""
    return f"{us / 1000:.2f} ms" if us >= 1000 else f"{us:.0f} us"
