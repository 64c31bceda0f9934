package config

import "strings"

// hint says what to write instead of name: the one of known that it resembles, or any of them.
func hint(name string, known []string) string {
	best, least := "", len(name)/3+1 // farther ones are other words
	for _, candidate := range known {
		distance := editDistance(name, candidate)
		if strings.HasSuffix(candidate, "."+name) {
			distance = 0 // a metric without its namespace
		}
		if distance < least {
			best, least = candidate, distance
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	if len(known) == 0 {
		return "there is none"
	}
	return "write one of " + strings.Join(known, ", ")
}

// editDistance is how many bytes to insert, remove or change to get from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
