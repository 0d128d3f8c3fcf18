package render

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/zbuild/zbuild/runner"
)

// Built writes what a watched build has made: per target its image, how long it
// took until that had its name, and its names; then the whole.
func Built(w io.Writer, result *runner.Result, times map[string]time.Duration, took time.Duration, style Style) error {
	var b bytes.Buffer
	rows := make([][]string, 0, len(result.Targets))
	for _, t := range result.Targets {
		r := row(t)
		if d, ok := times[t.Name]; ok {
			r = append(r, "in "+millis(d))
		}
		rows = append(rows, r)
	}
	widths := columnWidths(rows)
	for i, t := range result.Targets {
		writeRow(&b, rows[i], widths, style)
		writeNames(&b, t, style)
	}
	fmt.Fprintln(&b, style.paint(green, fmt.Sprintf("Built %s in %s; %d of %s cached.",
		Count(len(result.Targets), "target"), millis(took), result.Cached, Count(result.Ran+result.Cached, "step"))))
	_, err := w.Write(b.Bytes())
	return err
}

// millis is how long something short took.
func millis(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return Duration(d)
}
