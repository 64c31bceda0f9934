// Command picture makes an SVG of screens of a terminal, as `tmux capture-pane -e -p` writes them, shown in turns.
package main

import (
	"fmt"
	"html"
	"image/color"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
)

// The size of a cell in pixels, and how long a screen is shown in seconds.
const (
	cellWidth, cellHeight = 9.0, 18.0
	baseline              = 14.0
	margin                = 18.0
	each                  = 5
)

var (
	foreground = color.RGBA{0xd4, 0xd4, 0xd4, 0xff}
	background = color.RGBA{0x1b, 0x1d, 0x23, 0xff}
)

func main() {
	if err := write(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

// write draws the screens that are in files.
func write(w io.Writer, files []string) error {
	if len(files) == 0 {
		return fmt.Errorf("usage: picture FILE... (each what tmux capture-pane -e -p wrote)")
	}
	var screens []string
	columns, rows := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines := uv.NewStyledString(strings.TrimRight(string(text), "\n")).Lines(ansi.GraphemeWidth)
		var screen strings.Builder
		for y, line := range lines {
			drawLine(&screen, y, line)
			columns = max(columns, len(line))
		}
		rows = max(rows, len(lines))
		screens = append(screens, screen.String())
	}
	width, height := float64(columns)*cellWidth+2*margin, float64(rows)*cellHeight+2*margin
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f">
<style>
text { font: 15px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
.s { animation: turn %ds step-end infinite }
.s + .s { visibility: hidden }
@keyframes turn { 0%% { visibility: visible } %.2f%% { visibility: hidden } }
</style>
<rect width="100%%" height="100%%" rx="8" fill="%s"/>
`, width, height, width, height, each*len(screens), 100/float64(len(screens)), hex(background))
	for i, screen := range screens {
		fmt.Fprintf(w, "<g class=\"s\" style=\"animation-delay: %ds\">\n%s</g>\n", i*each, screen)
	}
	_, err := fmt.Fprintln(w, "</svg>")
	return err
}

// drawLine draws backgrounds and blocks by the cell, and text by the word: fonts differ in how they set spaces and blocks.
func drawLine(out *strings.Builder, y int, line uv.Line) {
	top := margin + float64(y)*cellHeight
	var w word
	for x := 0; x < len(line); x += max(1, line[x].Width) {
		cell := &line[x]
		fg, bg := colors(cell.Style)
		left, width := margin+float64(x)*cellWidth, cellWidth*float64(max(1, cell.Width))
		if bg != nil {
			w.end(out, top)
			rectangle(out, left, top, width, cellHeight, bg)
		}
		r, _ := utf8.DecodeRuneInString(cell.Content)
		switch {
		case r >= '▁' && r <= '█': // the lower eighths
			w.end(out, top)
			height := cellHeight * float64(r-'▁'+1) / 8
			rectangle(out, left, top+cellHeight-height, width, height, fg)
		case r >= '▉' && r <= '▏': // the left eighths, from seven to one
			w.end(out, top)
			rectangle(out, left, top, width*float64('▏'-r+1)/8, cellHeight, fg)
		case strings.TrimSpace(cell.Content) == "":
			w.end(out, top)
		default:
			if w.text != "" && !cell.Style.Equal(&w.style) {
				w.end(out, top)
			}
			if w.text == "" {
				w = word{left: left, style: cell.Style}
			}
			w.text += cell.Content
			w.width += width
		}
	}
	w.end(out, top)
}

// word is text of one style without a gap.
type word struct {
	text        string
	style       uv.Style
	left, width float64
}

func (w *word) end(out *strings.Builder, top float64) {
	if w.text == "" {
		return
	}
	fg, _ := colors(w.style)
	attributes := ""
	if w.style.Attrs&uv.AttrBold != 0 {
		attributes += ` font-weight="bold"`
	}
	if w.style.Attrs&uv.AttrFaint != 0 {
		attributes += ` opacity="0.65"`
	}
	fmt.Fprintf(out, "<text x=\"%g\" y=\"%g\" textLength=\"%g\" fill=\"%s\"%s>%s</text>\n",
		w.left, top+baseline, w.width, hex(fg), attributes, html.EscapeString(w.text))
	*w = word{}
}

// colors are those of a style; the background is nil where it is the picture's.
func colors(style uv.Style) (fg, bg color.Color) {
	fg, bg = style.Fg, style.Bg
	if fg == nil {
		fg = foreground
	}
	if style.Attrs&uv.AttrReverse == 0 {
		return fg, bg
	}
	if bg == nil {
		bg = background
	}
	return bg, fg
}

func rectangle(out *strings.Builder, x, y, width, height float64, c color.Color) {
	fmt.Fprintf(out, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"%s\"/>\n", x, y, width, height, hex(c))
}

func hex(c color.Color) string {
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)
}
