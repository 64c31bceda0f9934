package top

import (
	"slices"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// page is one way to look at the data.
type page interface {
	name() string
	keys() []key.Binding
	// press takes a key, and may return a page to open.
	press(key string, d *data) page
	// draw returns lines of at most so many columns; what is more than height is cut off.
	draw(d *data, width, height int) []string
}

func binding(help, what string, keys ...string) key.Binding {
	return key.NewBinding(key.WithKeys(keys...), key.WithHelp(help, what))
}

// The keys. Those of a page are handled by the page itself.
var (
	pageKey   = binding("1-4", "views", "1", "2", "3", "4")
	nextKey   = binding("tab", "next view", "tab", "shift+tab")
	filterKey = binding("/", "filter", "/")
	pauseKey  = binding("p", "pause", "p")
	helpKey   = binding("?", "help", "?")
	quitKey   = binding("q", "quit", "q", "ctrl+c")
	backKey   = binding("esc", "back", "esc")

	moveKey     = binding("↑↓", "select")
	openKey     = binding("⏎", "open")
	sortKey     = binding("←→", "sort by")
	totalsKey   = binding("t", "totals")
	shapeKey    = binding("⏎", "distribution")
	metricKey   = binding("←→", "metric")
	workloadKey = binding("↑↓", "workload")
	scrollKey   = binding("↑↓", "scroll")
)

// model is the state of the screen.
type model struct {
	Options
	width, height int
	dark          bool
	profile       colorprofile.Profile

	history history
	counted totals
	latest  *readings.Frame
	frame   *readings.Frame // that is shown
	past    []past          // up to it
	totals  totals          // up to it
	paused  bool

	pages  []page
	at     int
	opened []page // above pages[at], the last on top
	help   bool
	filter textinput.Model
}

func newModel(o Options) *model {
	m := &model{Options: o, width: 80, height: 24, dark: true, counted: make(totals), filter: textinput.New(),
		pages: []page{&overview{}, &workloads{}, &distributions{}, &itself{}}}
	m.filter.Prompt = "/"
	m.filter.SetVirtualCursor(false)
	return m
}

type frameMsg struct{ *readings.Frame }

// next waits for a frame.
func (m *model) next() tea.Msg {
	frame, ok := <-m.Frames
	if !ok {
		return tea.Quit()
	}
	return frameMsg{frame}
}

func (m *model) Init() tea.Cmd { return tea.Batch(m.next, tea.RequestBackgroundColor) }

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.BackgroundColorMsg:
		m.dark = msg.IsDark()
	case tea.ColorProfileMsg:
		m.profile = msg.Profile
	case frameMsg:
		m.history.add(msg.Frame)
		m.counted.add(msg.Frame)
		m.latest = msg.Frame
		if !m.paused {
			m.show()
		}
		return m, m.next
	case tea.KeyPressMsg:
		return m, m.press(msg)
	case tea.PasteMsg:
		return m, m.edit(msg)
	}
	return m, nil
}

// show shows the latest frame. What is up to it is kept, as the history moves on while the screen is paused.
func (m *model) show() {
	m.frame, m.past, m.totals = m.latest, slices.Clone(m.history.frames), m.counted.clone()
}

// current is the page on top.
func (m *model) current() page {
	if len(m.opened) > 0 {
		return m.opened[len(m.opened)-1]
	}
	return m.pages[m.at]
}

func (m *model) press(msg tea.KeyPressMsg) tea.Cmd {
	switch {
	case msg.String() == "ctrl+c":
		return tea.Quit
	case msg.String() == "ctrl+z":
		return tea.Suspend
	case m.help:
		m.help = false
	case m.filter.Focused():
		return m.edit(msg)
	case key.Matches(msg, quitKey):
		return tea.Quit
	case key.Matches(msg, helpKey):
		m.help = true
	case key.Matches(msg, filterKey):
		return m.filter.Focus()
	case key.Matches(msg, pauseKey):
		if m.paused = !m.paused; !m.paused {
			m.show()
		}
	case key.Matches(msg, pageKey):
		m.open(int(msg.String()[0] - '1'))
	case key.Matches(msg, nextKey):
		step := 1
		if msg.String() == "shift+tab" {
			step = len(m.pages) - 1
		}
		m.open((m.at + step) % len(m.pages))
	case key.Matches(msg, backKey):
		if m.filter.Value() != "" {
			m.filter.Reset()
		} else if len(m.opened) > 0 {
			m.opened = m.opened[:len(m.opened)-1]
		}
	default:
		if m.frame != nil {
			if opened := m.current().press(msg.String(), m.data()); opened != nil {
				m.opened = append(m.opened, opened)
				m.filter.Reset()
			}
		}
	}
	return nil
}

func (m *model) open(page int) { m.at, m.opened = page, nil }

// edit changes the filter, which has effect at once.
func (m *model) edit(msg tea.Msg) (command tea.Cmd) {
	if press, ok := msg.(tea.KeyPressMsg); ok && slices.Contains([]string{"enter", "esc"}, press.String()) {
		if press.String() == "esc" {
			m.filter.Reset()
		}
		m.filter.Blur()
		return nil
	}
	m.filter, command = m.filter.Update(msg)
	return command
}

func (m *model) data() *data {
	return &data{
		style: newStyle(m.dark, m.profile), frame: m.frame, past: m.past, totals: m.totals,
		filter: strings.ToLower(m.filter.Value()), messages: m.Messages(),
	}
}

func (m *model) View() tea.View {
	view := tea.NewView(strings.Join(m.lines(), "\n"))
	view.AltScreen = true
	view.WindowTitle = "sidecar top"
	if m.filter.Focused() {
		view.Cursor = m.filter.Cursor()
		view.Cursor.Y = m.height - 1
	}
	return view
}

// lines are exactly as many as the screen has, and none is wider.
func (m *model) lines() []string {
	d := m.data()
	body := max(0, m.height-3)
	var lines []string
	switch {
	case m.help:
		lines = m.helpLines(d)
	case m.frame == nil:
		lines = append([]string{d.dim.Render("Waiting for the first values.")}, d.warnings(m.width)...)
	default:
		lines = m.current().draw(d, m.width, body)
	}
	lines = append([]string{m.title(d), ""}, lines[:min(len(lines), body)]...)
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, m.footer(d))
	lines = lines[:min(len(lines), m.height)]
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "")
	}
	return lines
}

// title is the line at the top: the views, and the time of what is shown.
func (m *model) title(d *data) string {
	left := ""
	for i, p := range m.pages {
		name := " " + string(rune('1'+i)) + " " + p.name() + " "
		if i == m.at {
			name = d.selected.Render(name)
		}
		left += name
	}
	var parts []string // the most important first
	if m.paused {
		parts = append(parts, d.warning.Render("paused"))
		left = ansi.Truncate(left, max(0, m.width-len(" paused")), "")
	}
	if len(d.messages) > 0 {
		parts = append(parts, d.warning.Render("! see 4"))
	}
	if m.frame != nil {
		parts = append(parts, m.frame.Time.Format(time.TimeOnly), d.dim.Render("every "+m.Interval.String()))
	}
	for ; len(parts) > 0; parts = parts[:len(parts)-1] {
		right := strings.Join(parts, " ")
		if space := m.width - ansi.StringWidth(left) - ansi.StringWidth(right); space > 0 {
			return left + strings.Repeat(" ", space) + right
		}
	}
	return left
}

// footer is the line at the bottom: the filter, and the keys: those of the page as far as there is room for them.
func (m *model) footer(d *data) string {
	if m.filter.Focused() {
		return m.filter.View()
	}
	line := ""
	if m.filter.Value() != "" {
		line = d.accent.Render("/"+readings.Printable(m.filter.Value())) + "  "
	}
	always := d.keys(filterKey, pauseKey, helpKey, quitKey)
	for _, k := range m.current().keys() {
		if next := d.keys(k) + "  "; ansi.StringWidth(line+next+always) <= m.width {
			line += next
		}
	}
	return line + always
}

// keys writes keys and what they do.
func (d *data) keys(bindings ...key.Binding) string {
	var keys []string
	for _, k := range bindings {
		keys = append(keys, d.bold.Render(k.Help().Key)+" "+d.dim.Render(k.Help().Desc))
	}
	return strings.Join(keys, "  ")
}

func (m *model) helpLines(d *data) []string {
	lines := strings.Split(ansi.Wordwrap("What this machine's kernel does, by workload: a container, pod or systemd unit. (host) is what "+
		"is in none of them; (overflow) is what found no room in a table. Quantiles are the upper bounds of buckets.", m.width, ""), "\n")
	lines = append(lines, "")
	for _, k := range []struct {
		key.Binding
		more string
	}{
		{pageKey, "overview, workloads, distributions, the sidecar itself"},
		{nextKey, "shift+tab: the view before"},
		{moveKey, "a row, or whose distribution; also k j, pgup pgdn home end"},
		{sortKey, "a metric; or which one's distribution; also h l"},
		{totalsKey, "since the start, or rates now"},
		{openKey, "a workload's series; the distribution of one of those"},
		{filterKey, "by a text in the name; esc clears it"},
		{pauseKey, "what is shown; values are collected meanwhile"},
		{backKey, "or clear the filter"},
		{quitKey, ""},
	} {
		line := pad(k.Help().Key, 5, false) + "  " + pad(k.Help().Desc, 11, true) + d.dim.Render(k.more)
		lines = append(lines, line)
	}
	return append(lines, "", d.dim.Render("Any key goes back."))
}
