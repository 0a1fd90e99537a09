//go:build ignore

// This program writes the documents that are made from the command definitions: go generate ./cmd.
package main

import (
	"log"
	"os"

	"kwikcp/cmd"
)

func main() {
	man, reference := cmd.Docs()
	for name, text := range map[string]string{"../docs/kwikcp.1": man, "../docs/REFERENCE.md": reference} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
