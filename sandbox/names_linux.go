package sandbox

import "math/rand/v2"

var (
	adjectives = []string{
		"amber", "bold", "brisk", "calm", "clever", "crisp", "eager", "early", "fair", "fleet", "fond", "gentle", "glad",
		"golden", "happy", "hardy", "honest", "humble", "keen", "kind", "light", "lively", "lucky", "mellow", "merry",
		"mild", "neat", "nimble", "noble", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "ready",
		"rosy", "royal", "sharp", "shy", "silent", "silver", "sleek", "smooth", "snug", "solid", "steady", "still",
		"sunny", "swift", "tidy", "tender", "trim", "true", "vivid", "warm", "wise", "witty", "young",
	}
	animals = []string{
		"badger", "bat", "bear", "beaver", "bison", "crane", "crow", "deer", "dove", "duck", "eagle", "egret", "elk",
		"falcon", "ferret", "finch", "fox", "frog", "gecko", "goose", "gull", "hare", "hawk", "hedgehog", "heron", "ibex",
		"jay", "kestrel", "kite", "lark", "lemming", "lizard", "lynx", "magpie", "marmot", "marten", "mole", "moose",
		"mouse", "newt", "otter", "owl", "panda", "pigeon", "puffin", "quail", "rabbit", "raven", "robin", "salmon",
		"seal", "shrew", "sparrow", "squirrel", "stoat", "stork", "swan", "thrush", "toad", "trout", "vole", "weasel", "wren",
	}
)

// makeRandomName makes up a name, of few enough that it must be checked for being free.
func makeRandomName() string {
	return adjectives[rand.IntN(len(adjectives))] + "-" + animals[rand.IntN(len(animals))]
}
