// Package kind has the names of the kinds of complaints that compose-go tells
// apart.
package kind

import (
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/text/message"
)

// Type says that a value has another type than it should have.
type Type struct {
	Got  string
	Want []string
}

// LocalizedString is the complaint without the place.
func (k *Type) LocalizedString(p *message.Printer) string {
	return p.Sprintf("is a %s and must be a %s", k.Got, strings.Join(k.Want, " or "))
}

// Minimum says that a number is too small.
type Minimum struct{ Got, Want *big.Rat }

// LocalizedString is the complaint without the place.
func (k *Minimum) LocalizedString(p *message.Printer) string {
	return p.Sprintf("must be at least %s", k.Want.RatString())
}

// Maximum says that a number is too large.
type Maximum struct{ Got, Want *big.Rat }

// LocalizedString is the complaint without the place.
func (k *Maximum) LocalizedString(p *message.Printer) string {
	return p.Sprintf("must be at most %s", k.Want.RatString())
}

// AdditionalProperties says that a mapping has keys that it may not have.
type AdditionalProperties struct{ Properties []string }

// LocalizedString is the complaint without the place.
func (k *AdditionalProperties) LocalizedString(p *message.Printer) string {
	return p.Sprintf("additional properties %s not allowed", quoted(k.Properties))
}

// Required says that a mapping lacks keys.
type Required struct{ Missing []string }

// LocalizedString is the complaint without the place.
func (k *Required) LocalizedString(p *message.Printer) string {
	return p.Sprintf("missing properties %s", quoted(k.Missing))
}

// Enum says that a value is none of those that are allowed.
type Enum struct{ Want []any }

// LocalizedString is the complaint without the place.
func (k *Enum) LocalizedString(p *message.Printer) string {
	want := make([]string, len(k.Want))
	for i, w := range k.Want {
		want[i] = fmt.Sprintf("'%v'", w)
	}
	return p.Sprintf("must be one of %s", strings.Join(want, ", "))
}

// Other is any other complaint.
type Other struct{ Text string }

// LocalizedString is the complaint without the place.
func (k *Other) LocalizedString(*message.Printer) string { return k.Text }

func quoted(names []string) string { return "'" + strings.Join(names, "', '") + "'" }
