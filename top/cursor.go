package top

// cursor is on a row of a list whose rows change their places: on the first one, or where it was moved to.
type cursor struct {
	at    int
	moved bool
	row   string // the key of the row that it was moved to, once that is known
}

// press moves the cursor if the key is one that does.
func (c *cursor) press(key string) {
	const page = 10
	step, ok := map[string]int{
		"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -page, "pgdown": page, "home": -1 << 30, "end": 1 << 30,
	}[key]
	if ok {
		*c = cursor{at: c.at + step, moved: true}
	}
}

// settle puts the cursor on its row of those that there are now, and returns where that is; -1 if there is none.
func (c *cursor) settle(n int, key func(int) string) int {
	if n == 0 {
		return -1
	}
	c.at = max(0, min(c.at, n-1))
	if c.row != "" && key(c.at) != c.row {
		for i := range n {
			if key(i) == c.row {
				c.at = i
			}
		}
	}
	if c.moved {
		c.row = key(c.at)
	}
	return c.at
}
