package config

import (
	"math/big"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// The language has no loops without end, but a page of it can double a string
// forty times over. So everything that is made while a project is evaluated is
// paid for: work is paid for by the step, memory by the byte. The allowance grows
// with the size of the build files, so that a large project is as free as a
// small one, and is far above what a project needs.
const (
	baseWork    = 1_000_000
	workPerByte = 3
	baseBytes   = 64 << 20
	bytePerByte = 16
	// valueBytes is what a value costs by itself.
	valueBytes = 96
	// maxString is how long one string may become.
	maxString = 16 << 20
	// maxNesting is how deep a value may be: what looks at values recurses.
	maxNesting = 400
	// maxExponent and maxPrecision are how large a number may be, in bits.
	maxExponent  = 16_384
	maxPrecision = 65_536
)

const summaryTooMuch = "The project takes too much to evaluate"

// meter is the allowance of one Load. Once it is used up everything that is
// evaluated fails, also where failures are caught.
type meter struct {
	work, bytes int64
	// over says what was too much, and where it was found; nil if nothing was.
	over *hcl.Diagnostic
	// at is the expression that is being evaluated.
	at hcl.Range
}

func newMeter(sources []*source) *meter {
	size := int64(0)
	for _, s := range sources {
		size += int64(len(s.text))
	}
	return &meter{work: baseWork + workPerByte*size, bytes: baseBytes + bytePerByte*size}
}

// spend pays for steps and bytes, and reports whether there was enough.
func (m *meter) spend(work, bytes int64) bool {
	m.work -= work
	m.bytes -= bytes
	switch {
	case m.over != nil:
		return false
	case m.work < 0:
		m.exceed("It takes too many steps. Look for functions, loops and matrices that multiply one another.")
	case m.bytes < 0:
		m.exceed("Its values become too large. Look for values that are put together of copies of others.")
	default:
		return true
	}
	return false
}

// exceed notes that something is too much.
func (m *meter) exceed(detail string) {
	if m.over == nil {
		at := m.at
		m.over = &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summaryTooMuch, Detail: detail, Subject: &at}
	}
}

// exceedWith is exceed with a diagnostic of its own.
func (m *meter) exceedWith(d *hcl.Diagnostic) {
	if m.over == nil {
		m.over = d
	}
}

// failed is what an evaluation comes to that is too much.
func (m *meter) failed() (cty.Value, hcl.Diagnostics) {
	return cty.DynamicVal, hcl.Diagnostics{m.over}
}

// look pays for what it takes to look at all of a value, and checks that there
// is an end to it. It reports whether there was enough.
func (m *meter) look(v cty.Value) bool {
	bytes := int64(0)
	if n := m.count(v, 0, &bytes); n < 0 || !m.spend(n+bytes/64, 0) {
		return false
	}
	return true
}

// count counts the values in a value, and the bytes of its strings. It is -1 if
// the meter is exceeded.
func (m *meter) count(v cty.Value, depth int, bytes *int64) int64 {
	if v.IsMarked() {
		v, _ = v.Unmark()
	}
	if v.IsNull() || !v.IsKnown() {
		return 1
	}
	ty := v.Type()
	switch {
	case ty == cty.String:
		*bytes += int64(len(v.AsString()))
		return 1
	case ty == cty.Number:
		if !m.number(v.AsBigFloat()) {
			return -1
		}
		return 1
	case !v.CanIterateElements():
		return 1
	}
	if depth >= maxNesting {
		m.exceed("A value is nested too deeply.")
		return -1
	}
	n := int64(1)
	for it := v.ElementIterator(); it.Next(); {
		key, element := it.Element()
		if key.Type() == cty.String {
			*bytes += int64(len(key.AsString()))
		}
		c := m.count(element, depth+1, bytes)
		if c < 0 {
			return -1
		}
		n += c
		if n > m.work { // an object can hold the same one twice, and so on
			m.spend(n, 0)
			return -1
		}
	}
	return n
}

// number checks that a number can be written down.
func (m *meter) number(f *big.Float) bool {
	if e := f.MantExp(nil); !f.IsInf() && (e > maxExponent || e < -maxExponent || f.MinPrec() > maxPrecision) {
		m.exceed("A number is too large or too small.")
		return false
	}
	return true
}

// made pays for a value that was just made of others: its own size, not theirs.
func (m *meter) made(v cty.Value) bool {
	if v.IsMarked() {
		v, _ = v.Unmark()
	}
	work, bytes := int64(1), int64(valueBytes)
	if !v.IsNull() && v.IsKnown() {
		switch ty := v.Type(); {
		case ty == cty.String:
			n := int64(len(v.AsString()))
			if n > maxString {
				m.exceed("A string is too long.")
				return false
			}
			work, bytes = work+n/64, bytes+n
		case ty == cty.Number:
			if !m.number(v.AsBigFloat()) {
				return false
			}
		case v.CanIterateElements():
			n := int64(v.LengthInt())
			work, bytes = work+n, bytes+valueBytes*n
		}
	}
	return m.spend(work, bytes)
}
