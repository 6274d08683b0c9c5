"""Medians, tables and plots."""

import statistics


def median(values):
    return statistics.median(values) if values else None


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def shown(value):
    if value is None:
        return "–"
    return f"{value:,.2f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


COLOURS = ["#2b6cb0", "#c05621", "#2f855a", "#6b46c1"]


def bars(title, unit, groups, names):
    """One bar a row: `groups` is [(label, [value, ...])], `names` says what each value of a row is."""
    groups = [(label, values) for label, values in groups if any(value is not None for value in values)]
    largest = max(value for _, values in groups for value in values if value is not None)
    height, left, width = 20, 150, 430
    lines, y = [], 46
    for label, values in groups:
        lines.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{label}</text>')
        for colour, value in zip(COLOURS, values):
            if value is None:
                continue
            length = max(1, width * value / largest)
            lines.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{height - 4}" fill="{colour}"/>')
            lines.append(f'<text x="{left + length + 5:.1f}" y="{y + 13}">{shown(value)}</text>')
            y += height
        y += 8
    for index, name in enumerate(names if len(names) > 1 else []):
        x = left + index * 200
        lines.append(f'<rect x="{x}" y="28" width="10" height="10" fill="{COLOURS[index]}"/>')
        lines.append(f'<text x="{x + 14}" y="37">{name}</text>')
    return _svg(f"{title}, {unit}", lines, left + width + 80, y + 6)


def _svg(title, lines, width, height):
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>'
        f'<text class="title" x="10" y="18">{title}</text>' + "".join(lines) + "</svg>\n"
    )
