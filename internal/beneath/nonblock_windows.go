package beneath

// Opening waits for nobody on Windows.
const nonblock = 0
