package source

func xattrs(string) ([]string, error) { return nil, nil }

func hasXattrs(string) (bool, error) { return false, nil }
