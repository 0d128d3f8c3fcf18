package runner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/planner"
)

type recorder struct{ text strings.Builder }

func (r *recorder) Emit(e event.Event) {
	if o, ok := e.(event.StepOutput); ok {
		r.text.Write(o.Data)
	}
}

func TestOutputConceals(t *testing.T) {
	const text = "the token is s3cr3t-value, again s3cr3t-value; s3cr3t is not\n"
	const want = "the token is ***, again ***; s3cr3t is not\n"
	for size := 1; size <= len(text); size++ {
		var rec recorder
		o := newOutput(&planner.Step{}, &rec, time.Now)
		o.conceal([]byte("s3cr3t-value\n"))
		for i := 0; i < len(text); i += size {
			fmt.Fprint(&o.streams[1], text[i:min(i+size, len(text))])
		}
		tail := o.end()
		if rec.text.String() != want {
			t.Errorf("in pieces of %d: %q", size, rec.text.String())
		}
		if len(tail) != 1 || tail[0]+"\n" != want {
			t.Errorf("in pieces of %d: the tail is %q", size, tail)
		}
	}
}

func TestOutputTail(t *testing.T) {
	var rec recorder
	o := newOutput(&planner.Step{}, &rec, time.Now)
	for i := range 1000 {
		fmt.Fprintf(&o.streams[1+i%2], "line %d\n", i)
	}
	fmt.Fprint(&o.streams[2], "10%\r50%\r100%")
	tail := o.end()
	if len(tail) != tailLines || tail[tailLines-1] != "100%" || tail[tailLines-2] != "line 999" {
		t.Errorf("tail of %d lines, ends with %q", len(tail), tail[max(0, len(tail)-2):])
	}
}

// TestOutputConcealsSeveral has secrets that begin like others, or end like others
// begin: of none of them anything is shown.
func TestOutputConcealsSeveral(t *testing.T) {
	const text = "user=admin pass=admin123 both=abcdxyz adm abadmin12\nadmin1234 xyz cdxy\n"
	const want = "user=*** pass=*** both=*** adm ab***12\n***4 xyz cdxy\n"
	for size := 1; size <= len(text); size++ {
		var rec recorder
		o := newOutput(&planner.Step{}, &rec, time.Now)
		for _, secret := range []string{"admin", "admin123", "abcd", "cdxyz"} {
			o.conceal([]byte(secret))
		}
		for i := 0; i < len(text); i += size {
			fmt.Fprint(&o.streams[1], text[i:min(i+size, len(text))])
		}
		o.end()
		if rec.text.String() != want {
			t.Errorf("in pieces of %d: %q", size, rec.text.String())
		}
	}
}
