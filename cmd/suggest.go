package cmd

import (
	"slices"
	"strings"
)

// nearest returns the word that the user may have meant by another; empty if none is near. A word
// is near if it has one typing error (in a long word two): a letter added, missing or replaced, or
// two letters swapped. Otherwise a word that begins with the typed one is near.
func nearest(typed string, words []string) (best string) {
	typed = strings.ToLower(typed)
	letters := len(strings.TrimLeft(typed, "-"))
	if letters < 2 {
		return ""
	}
	limit := 1 + min(1, letters/5)
	for _, word := range words {
		if max(len(word)-len(typed), len(typed)-len(word)) > limit {
			continue
		}
		if n := distance(typed, word); n <= limit {
			best, limit = word, n-1
		}
	}
	i := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, typed) })
	if best == "" && i >= 0 {
		return words[i]
	}
	return best
}

// distance returns the optimal string alignment distance: the number of typing errors that make b
// from a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replaced := 0
			if a[i-1] != b[j-1] {
				replaced = 1
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// secretFlag returns the option for a file with the secret that the user tries to pass as an
// argument. It is empty if the unknown option name is not about a secret. Arguments are visible
// to every user of the machine.
func secretFlag(name string, options []string) string {
	name, _, _ = strings.Cut(name, "=")
	file := name + "-file"
	if slices.Contains([]string{"--token", "--secret", "--password"}, name) {
		for _, option := range []string{"--join-token-file", "--token-file"} {
			if slices.Contains(options, option) {
				return option
			}
		}
	}
	if slices.Contains(options, file) {
		return file
	}
	return ""
}

// secretVariable returns the environment variable that holds the secret of an option such as
// --join-token-file.
func secretVariable(option string) string {
	return variableOf(strings.TrimSuffix(strings.TrimPrefix(option, "--"), "-file"))
}

// withoutSecret removes the part before an @ from the host of a URL; users put passwords there.
func withoutSecret(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return text
	}
	authority, _, _ := strings.Cut(rest, "/")
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		return scheme + "://..." + rest[at:]
	}
	return text
}

// looksSecret reports whether the name of a file is rather the secret that the file should hold.
func looksSecret(name string) bool { return len(name) >= 16 && !strings.ContainsAny(name, `/\.`) }
