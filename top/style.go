package top

import (
	"math"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/colorprofile"
)

// style is how things look on this terminal.
type style struct {
	bold, dim, selected, accent, warning lipgloss.Style

	heat  []lipgloss.Style // from little to much
	solid bool             // there are so many colours that they alone tell heat
}

// newStyle takes the terminal's own 16 colours for text, so that it can be read on any background.
func newStyle(dark bool, profile colorprofile.Profile) style {
	pick := lipgloss.LightDark(dark)
	s := style{
		bold:     lipgloss.NewStyle().Bold(true),
		dim:      lipgloss.NewStyle().Faint(true),
		selected: lipgloss.NewStyle().Reverse(true),
		accent:   lipgloss.NewStyle().Foreground(pick(lipgloss.Blue, lipgloss.BrightCyan)),
		warning:  lipgloss.NewStyle().Foreground(pick(lipgloss.Red, lipgloss.BrightYellow)),
		solid:    profile >= colorprofile.ANSI256,
	}
	palette := []string{"4", "6", "2", "3", "1"}
	if s.solid { // from the background's colour to the one farthest from it
		palette = []string{"17", "18", "19", "56", "91", "126", "161", "203", "215", "228"}
		if !dark {
			palette = []string{"195", "153", "117", "75", "69", "63", "92", "90", "89", "52"}
		}
	}
	for _, c := range palette {
		s.heat = append(s.heat, lipgloss.NewStyle().Foreground(lipgloss.Color(c)))
	}
	return s
}

var (
	sparks = []rune("▁▂▃▄▅▆▇█")
	shades = []rune("·░▒▓█")
	eights = []rune(" ▏▎▍▌▋▊▉█")
)

// spark draws the latest values, as many as fit, the newest at the right.
func spark(values []float64, width int) string {
	values = values[max(0, len(values)-width):]
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	line := []rune(strings.Repeat(" ", width-len(values)))
	for _, v := range values {
		i := 0
		if most > 0 {
			i = int(math.Ceil(v / most * float64(len(sparks)-1)))
		}
		line = append(line, sparks[i])
	}
	return string(line)
}

// bar draws a part of a whole, 0 to 1.
func bar(part float64, width int) string {
	n := int(math.Round(part * float64(width) * 8))
	if part > 0 {
		n = max(1, n)
	}
	line := strings.Repeat(string(eights[8]), n/8)
	if n%8 > 0 {
		line += string(eights[n%8])
	}
	return line + strings.Repeat(" ", max(0, width-lipgloss.Width(line)))
}

// cell draws how hot it is, 0 for nothing to 1.
func (s style) cell(heat float64) string {
	if heat <= 0 {
		return " "
	}
	shade := shades[int(math.Ceil(heat*float64(len(shades))))-1]
	if s.solid {
		shade = '█'
	}
	return s.heat[int(math.Ceil(heat*float64(len(s.heat))))-1].Render(string(shade))
}
