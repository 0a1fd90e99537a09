// Command kwikcp copies files from several servers at once, fast and proved. See README.md.
package main

import (
	"os"

	"kwikcp/cmd"
)

func main() {
	os.Exit(cmd.Main())
}
