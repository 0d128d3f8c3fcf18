// Command check validates Compose documents by this module, one JSON value a line,
// and prints for each a line: empty, or what is wrong with it. It is there to be
// compared with the original.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/schema"
)

func main() {
	in := json.NewDecoder(os.Stdin)
	for {
		var doc map[string]any
		err := in.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		text := ""
		if err := schema.Validate(doc); err != nil {
			text = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Println(text)
	}
}
