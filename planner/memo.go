package planner

import "sync"

// memo makes each value once, however many targets ask for it at the same time, and gives
// all of them the same one. The zero value is ready.
type memo[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]func() (V, error)
}

// get gives the value of a key, which create makes if nobody has asked for it yet.
func (m *memo[K, V]) get(key K, create func() (V, error)) (V, error) {
	m.mu.Lock()
	value := m.known[key]
	if value == nil {
		if m.known == nil {
			m.known = map[K]func() (V, error){}
		}
		value = sync.OnceValues(create)
		m.known[key] = value
	}
	m.mu.Unlock()
	return value()
}

// keys are those that somebody has asked for, in no order.
func (m *memo[K, V]) keys() []K {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []K
	for key := range m.known {
		out = append(out, key)
	}
	return out
}
