package readings

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Format writes a value of a unit for the eye, with about three digits; whole numbers of things are whole, as they are there
// to be compared.
func Format(unit string, v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	switch unit {
	case "s":
		return seconds(v)
	case "By":
		return scaled(v, 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"})
	}
	return plain(v)
}

// FormatRate writes how fast values of a unit are added.
func FormatRate(unit string, perSecond float64) string {
	if unit == "By" || unit == "s" {
		return Format(unit, perSecond) + "/s"
	}
	return scaled(perSecond, 1000, []string{"", "k", "M", "G"}) + "/s"
}

func plain(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func seconds(v float64) string {
	switch {
	case v == 0 || math.IsInf(v, 0):
		return strings.TrimPrefix(plain(v), "+")
	case v >= 3600:
		return strconv.FormatFloat(v/3600, 'f', 1, 64) + "h"
	case v >= 60:
		return strconv.FormatFloat(v/60, 'f', 1, 64) + "m"
	}
	return scaled(v*1e9, 1000, []string{"ns", "µs", "ms", "s"})
}

// scaled writes v with three digits and the largest unit that is not larger than v.
func scaled(v, step float64, units []string) string {
	i := 0
	for math.Abs(v) >= step && i < len(units)-1 {
		v /= step
		i++
	}
	return digits(v) + units[i]
}

// digits writes v with at most three digits that count, and never with an exponent.
func digits(v float64) string {
	decimals := 0
	switch a := math.Abs(v); {
	case a == 0 || a >= 100:
	case a >= 10:
		decimals = 1
	default:
		decimals = 2
	}
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	if decimals > 0 {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// maxValue is how many characters of an attribute's value are shown.
const maxValue = 40

// Printable returns s, cut if it is long, and quoted if a terminal or a reader could take it for something else.
func Printable(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxValue {
			s = s[:i] + "…"
			break
		}
	}
	// A mark at the beginning would be drawn over what is before it.
	if first, _ := utf8.DecodeRuneInString(s); s == "" || unicode.IsMark(first) || strings.ContainsFunc(s, func(r rune) bool {
		return r == ' ' || r == '=' || r == '"' || r == '\\' || r == utf8.RuneError || !strconv.IsPrint(r)
	}) {
		return strconv.Quote(s)
	}
	return s
}

// Escape returns a line with what a terminal could take for something else than text escaped.
func Escape(line string) string {
	var b strings.Builder
	for _, r := range line {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}
