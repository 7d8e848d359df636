package main

import "testing"

func TestClosest(t *testing.T) {
	names := []string{"pip-cache", "wheels", "db", "a", "web-1", "web-2"}
	for word, want := range map[string]string{
		"pip-cahce": "pip-cache", "pipcache": "pip-cache", "pip_cache": "pip-cache", "weels": "wheels", "bd": "db",
		"web": "", "wheels": "", "nosuch": "", "b": "", "": "", "web-12": "web-1", "PIP-CACHE": "",
	} {
		if got := closestName(word, names); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
