package sqldb

import (
	"regexp"
	"strings"
	"sync"
)

// Translation is what a placeholder stands for in the SQL of each engine.
type Translation struct{ Postgres, SQLite string }

// translations are the placeholders that every program has.
var translations = map[string]Translation{
	"{now}":   {`((extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000)`, `(CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000000)`},
	"{lock}":  {`FOR UPDATE`, ``},
	"{guard}": {`FOR NO KEY UPDATE`, ``}, // like {lock}, but others may insert rows that refer to the row
	"{bytes}": {`BYTEA`, `BLOB`},         // the type of ids
}

// compileOnce returns a function that compiles a pattern, at its first call.
func compileOnce(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// eachPattern matches {each TABLE ALIAS: CONDITION}, a join that looks the rows of a table up
// one by one, by an index, whatever the planner makes of the sizes of the tables. LEFT may
// stand before it.
var eachPattern = compileOnce(`\{each (\w+) (\w+): ([^}]*)\}`)

// eachTemplate is the translation of {each}.
var eachTemplate = Translation{
	// OFFSET 0 keeps the planner from turning it into another kind of join.
	Postgres: `JOIN LATERAL (SELECT ${2}.* FROM ${1} ${2} WHERE ${3} OFFSET 0) ${2} ON true`,
	// The order of a CROSS JOIN is kept: https://www.sqlite.org/optoverview.html#crossjoin
	SQLite: `CROSS JOIN ${1} ${2} ON ${3}`,
}

// hasBytePattern matches {has BYTES HEX}, a condition: the bytes contain that byte.
var hasBytePattern = compileOnce(`\{has ([\w.]+) ([0-9a-f]{2})\}`)

// hasByteTemplate is the translation of {has}.
var hasByteTemplate = Translation{
	Postgres: `(position('\x${2}'::bytea IN ${1}) > 0)`,
	SQLite:   `(instr(${1}, x'${2}') > 0)`,
}

// parameterPattern matches a parameter, such as $1.
var parameterPattern = compileOnce(`\$([0-9]+)`)

// dialect translates queries into the SQL of one engine.
type dialect struct {
	selectEngine func(Translation) string
	placeholders *strings.Replacer
	cache        sync.Map // of expandSQL: query as written by the program -> SQL
}

// newDialect returns the dialect of the engine that selectEngine returns the text for. extra are
// the placeholders of the program.
func newDialect(selectEngine func(Translation) string, extra map[string]Translation) *dialect {
	var pairs []string
	for _, table := range []map[string]Translation{translations, extra} {
		for placeholder, text := range table {
			pairs = append(pairs, placeholder, selectEngine(text))
		}
	}
	return &dialect{selectEngine: selectEngine, placeholders: strings.NewReplacer(pairs...)}
}

// postgresText and sqliteText select the text for an engine.
func postgresText(t Translation) string { return t.Postgres }
func sqliteText(t Translation) string   { return t.SQLite }

// parameterTemplate is the translation of $1.
var parameterTemplate = Translation{Postgres: `$$${1}`, SQLite: `?${1}`}

// expandSQL translates a query. Translations are cached: the queries are constants, but for
// few.
func (d *dialect) expandSQL(s string) string {
	if v, ok := d.cache.Load(s); ok {
		return v.(string)
	}
	r := eachPattern().ReplaceAllString(s, d.selectEngine(eachTemplate))
	r = strings.ReplaceAll(r, "LEFT CROSS JOIN", "LEFT JOIN") // SQLite keeps its order, too
	r = hasBytePattern().ReplaceAllString(r, d.selectEngine(hasByteTemplate))
	r = d.placeholders.Replace(r)
	r = parameterPattern().ReplaceAllString(r, d.selectEngine(parameterTemplate))
	d.cache.Store(s, r)
	return r
}
