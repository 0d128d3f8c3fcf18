// Package store keeps values in memory, in the order in which they came.
package store

import "sync"

// Store is safe for use by several goroutines. The zero value is empty.
type Store[V any] struct {
	mu     sync.Mutex
	values []V
}

// Add keeps v and returns its number, the first one's being 1.
func (s *Store[V]) Add(v V) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = append(s.values, v)
	return len(s.values)
}

// Get returns the value with that number.
func (s *Store[V]) Get(number int) (v V, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < 1 || number > len(s.values) {
		return v, false
	}
	return s.values[number-1], true
}

// All returns a copy of all values.
func (s *Store[V]) All() []V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]V{}, s.values...)
}
