package source

func xattrs(string) ([]string, error) { return nil, nil }
