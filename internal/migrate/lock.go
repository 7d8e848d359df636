package migrate

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"time"

	"github.com/volehq/vole/driver"
)

// lockPatience is how long a process waits for another that migrates the same database.
const lockPatience = 5 * time.Minute

// acquireLock takes the advisory lock on a connection to PostgreSQL; the session holds it until
// releaseLock or the end of the connection. It polls instead of blocking in a statement, which a
// statement_timeout would end.
func acquireLock(ctx context.Context, conn *sql.Conn, key int64, database string) error {
	until := time.Now().Add(lockPatience)
	pause := 10 * time.Millisecond
	for {
		var locked bool
		err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&locked)
		if err != nil || locked {
			return err
		}
		if time.Now().After(until) {
			return driver.Errorf(driver.ErrInUse, "another process (%s) has been bringing the schema of %s up to date for %v; try again later",
				lockHolder(ctx, conn, key), database, lockPatience)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// lockHolder names the session that holds the lock, as far as the database tells.
func lockHolder(ctx context.Context, conn *sql.Conn, key int64) string {
	holder := "its session has just ended"
	// The lock stays unnamed if this fails: the error is about waiting for it.
	_ = conn.QueryRowContext(ctx, `SELECT 'process ' || l.pid || ' of PostgreSQL, a session of ' || coalesce(nullif(a.application_name, ''), 'an unnamed program')
		FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint) = $1
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`, key).Scan(&holder)
	return holder
}

// releaseLock releases the lock, even after ctx has ended. If that fails the connection is
// closed, which ends its session and the lock.
func releaseLock(ctx context.Context, conn *sql.Conn, key int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, key); err != nil {
		_ = conn.Raw(func(any) error { return sqldriver.ErrBadConn })
	}
}
