package top

import (
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// table is rows of cells below a header. The first column is left-aligned and takes the room that the others leave.
type table struct {
	header   [][]string // lines of titles
	rows     [][]string
	selected int // the row, or -1
	marked   int // the column to be seen, and marked, or 0
	left     map[int]bool
	curve    int // the column that is a curve, or 0
}

const (
	gap      = 2
	minFirst = 16
)

// lines draws the table, as much of it as fits: the rows around the selected one, the columns from the first on or up to the
// marked one.
func (t *table) lines(width, height int, s style) []string {
	visible := max(0, height-len(t.header))
	first := max(0, min(t.selected-visible/2, len(t.rows)-visible))
	rows := t.rows[first:min(len(t.rows), first+visible)]

	widths := make([]int, len(t.header[0]))
	for _, row := range append(append([][]string{}, t.header...), rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	columns, room := t.fit(widths, width)
	var lines []string
	plain := lipgloss.NewStyle()
	draw := func(row []string, mark, curve, line lipgloss.Style) {
		var b strings.Builder
		for _, i := range columns {
			cell := row[i]
			if i == 0 {
				b.WriteString(pad(cell, room, true))
				continue
			}
			cell = pad(cell, widths[i], t.left[i])
			if i == t.marked {
				cell = mark.Render(cell)
			}
			if i == t.curve {
				cell = curve.Render(cell)
			}
			b.WriteString(strings.Repeat(" ", gap) + cell)
		}
		lines = append(lines, line.Render(b.String()))
	}
	for _, row := range t.header {
		draw(row, s.accent.Bold(true), plain, s.bold)
	}
	for i, row := range rows {
		if first+i == t.selected {
			draw(row, plain, plain, s.selected)
		} else {
			draw(row, plain, s.accent, plain)
		}
	}
	return lines[:min(len(lines), max(0, height))]
}

// fit chooses the columns to draw, and says how wide the first one is then.
func (t *table) fit(widths []int, width int) (columns []int, room int) {
	least := min(widths[0], minFirst)
	columns, room = []int{0}, width
	from := 1
	for { // leave columns out until the marked one fits
		used := least
		for i := from; i <= t.marked; i++ {
			used += gap + widths[i]
		}
		if used <= width || from >= t.marked {
			break
		}
		from++
	}
	for i := from; i < len(widths) && room-gap-widths[i] >= least; i++ {
		columns = append(columns, i)
		room -= gap + widths[i]
	}
	return columns, room
}

// pad makes a text exactly so wide.
func pad(text string, width int, left bool) string {
	text = ansi.Truncate(text, max(0, width), "…")
	space := strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
	if left {
		return text + space
	}
	return space + text
}
