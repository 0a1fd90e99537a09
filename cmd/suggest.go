package cmd

import (
	"slices"
	"strings"
)

// nearest returns the word that somebody who typed something else may have meant; empty if none is near. Near is what begins alike, and
// what one slip of the fingers makes of a short word, or two of a long one: a letter too many, too few or another, or two that
// changed places.
func nearest(typed string, words []string) (best string) {
	typed = strings.ToLower(typed)
	letters := len(strings.TrimLeft(typed, "-"))
	if letters < 2 {
		return ""
	}
	slips := 1 + min(1, letters/5)
	for _, word := range words {
		if max(len(word)-len(typed), len(typed)-len(word)) > slips {
			continue
		}
		if n := distance(typed, word); n <= slips {
			best, slips = word, n-1
		}
	}
	if i := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, typed) }); best == "" && i >= 0 {
		return words[i]
	}
	return best
}

// distance returns how many slips make b of a: the optimal string alignment distance.
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
			other := 0
			if a[i-1] != b[j-1] {
				other = 1
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+other)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// secretFlag returns where a secret belongs, if somebody tries to give it as the value of an option that a command does not have:
// arguments can be seen by everybody on the machine. It is empty if the option is about no secret.
func secretFlag(name string, options []string) string {
	name, _, _ = strings.Cut(name, "=")
	file := name + "-file"
	switch {
	case slices.Contains(options, file):
	case slices.Contains([]string{"--token", "--secret", "--password"}, name) && slices.Contains(options, "--join-token-file"):
		file = "--join-token-file"
	default:
		return ""
	}
	variable := "KWIKCP_" + strings.ToUpper(strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(file, "--"), "-file"), "-", "_"))
	return "arguments are no place for a secret, everybody on this machine can see them: " + file + " FILE, or " + variable + " in the environment"
}

// withoutSecret returns a URL as it was typed, less what stands before an @ in its host: people put passwords there.
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

// looksSecret reports whether what should be the name of a file is rather the secret that the file should hold.
func looksSecret(name string) bool { return len(name) >= 16 && !strings.ContainsAny(name, `/\.`) }
