package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

func at(n *yaml.Node) origin { return origin{line: n.Line, column: n.Column} }

// decode sets k and what is below it from a node, reports all that is wrong, and tells whether k has a value now.
// A mistake in one key keeps no other from being read.
func (l *loader) decode(n *yaml.Node, k key) bool {
	switch {
	case k.section(), k.open():
		return l.mapping(n, k)
	case k.list():
		return l.list(n, k)
	}
	n, text, ok := l.scalar(n, k.path)
	if !ok {
		return false
	}
	if !quoted(n) {
		// What a variable expands to has the type that it would have in its place.
		switch text {
		case "", "~", "null", "Null", "NULL":
			return false
		}
		return l.set(k, text, at(n))
	}
	switch k.value.Interface().(type) {
	case bool, int:
		l.report(at(n), "%s: %q is text (write it without quotes)", k.path, text)
		return false
	}
	return l.set(k, text, at(n))
}

func quoted(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
}

func (l *loader) mapping(n *yaml.Node, k key) bool {
	n, ok := l.node(n, yaml.MappingNode, k.path)
	if !ok {
		return false
	}
	children, names := make(map[string]key), []string{}
	for _, child := range k.fileKeys() {
		children[child.name] = child
		names = append(names, child.name)
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		place, name, value := at(n.Content[i]), n.Content[i].Value, n.Content[i+1]
		child, known := children[name]
		switch {
		case n.Content[i].Kind != yaml.ScalarNode:
			l.report(place, "%s has a key that is no plain text (write name: value)", label(k.path))
		case lines[name] != 0:
			l.report(place, "%s has the key %q on line %d already (keep one of them)", label(k.path), name, lines[name])
		case k.open():
			l.header(value, k, name, place)
		case !known:
			l.report(place, "unknown key %q in %s (%s)", name, label(k.path), hint(name, names))
		case l.decode(value, child):
			k.put(child)
		}
		lines[name] = place.line
	}
	return true
}

// header sets an entry of the headers k.
func (l *loader) header(n *yaml.Node, k key, name string, place origin) {
	if err := checkHeaderName(name); err != nil {
		l.reportAt(k.path, place, err)
		return
	}
	entry := k.entry(name)
	if !l.decode(n, entry) {
		return
	}
	if err := checkHeaderValue(name, entry.value.String()); err != nil {
		l.reportAt(k.path, place, err)
	}
	k.put(entry)
}

func (l *loader) list(n *yaml.Node, k key) bool {
	n, ok := l.node(n, yaml.SequenceNode, k.path)
	if !ok {
		return false
	}
	k.value.SetZero()
	for _, item := range n.Content {
		item, text, ok := l.scalar(item, k.path)
		if !ok {
			continue
		}
		if err := k.add(text); err != nil {
			l.reportAt(k.path, at(item), err)
		}
	}
	return true
}

// shapes is what a node can be, and how to write it.
var shapes = map[yaml.Kind][2]string{
	yaml.MappingNode:  {"a mapping", "keys below it, as name: value"},
	yaml.SequenceNode: {"a list", "a list, as [a, b]"},
	yaml.ScalarNode:   {"a single value", "a single value"},
}

// node returns the node that n stands for if it has the shape that is wanted. Else it reports that, unless the node is
// empty: that is as good as an absent key.
func (l *loader) node(n *yaml.Node, want yaml.Kind, path string) (*yaml.Node, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Style&yaml.TaggedStyle != 0:
		l.report(at(n), "%s has the tag %q (remove the tag)", label(path), n.ShortTag())
	case n.Kind == want:
		return n, true
	case n.ShortTag() != "!!null":
		l.report(at(n), "%s is %s (write %s)", label(path), shapes[n.Kind][0], shapes[want][1])
	}
	return nil, false
}

func label(path string) string { return cmp.Or(path, "the file") }

// reference is $$, ${env:NAME}, ${env:NAME:-default}, or what is meant as one of them.
var reference = regexp.MustCompile(`\$\$|\$\{(?:env:([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\})?`)

// scalar returns a scalar node and its text, with the values of the variables that it refers to. They are put in after
// the file is parsed, so they can't add keys to it, and are not expanded again.
func (l *loader) scalar(n *yaml.Node, path string) (scalar *yaml.Node, text string, ok bool) {
	if n, ok = l.node(n, yaml.ScalarNode, path); !ok {
		return nil, "", false
	}
	text = reference.ReplaceAllStringFunc(n.Value, func(match string) string {
		parts := reference.FindStringSubmatch(match)
		name, fallback := parts[1], parts[2]
		value, _ := l.env(name)
		switch {
		case match == "$$":
			return "$"
		case name == "":
			ok = false
			l.reportAt(path, at(n), errors.New("${ begins nothing known "+
				"(write ${env:NAME} or ${env:NAME:-default}, or $${ for the text ${)"))
		case value == "" && fallback == "":
			ok = false
			l.reportAt(path, at(n), fmt.Errorf("the variable %s is empty or not set (set it, or write ${env:%s:-default})", name, name))
		case value == "":
			return strings.TrimPrefix(fallback, ":-")
		}
		return value
	})
	return n, text, ok
}
