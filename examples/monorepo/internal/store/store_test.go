package store_test

import (
	"slices"
	"testing"

	"example.com/monorepo/internal/store"
)

func TestStore(t *testing.T) {
	var s store.Store[string]
	if n := s.Add("a"); n != 1 {
		t.Errorf("first Add = %d, want 1", n)
	}
	s.Add("b")
	if v, ok := s.Get(2); !ok || v != "b" {
		t.Errorf("Get(2) = %q, %v, want b, true", v, ok)
	}
	if v, ok := s.Get(3); ok {
		t.Errorf("Get(3) = %q, true: it was never added", v)
	}
	if got, want := s.All(), []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("All() = %q, want %q", got, want)
	}
}
