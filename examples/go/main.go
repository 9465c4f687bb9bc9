// Places an order: the order's row, its line and its event are one transaction.
//
//	go run . A-1
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
)

func place(ctx context.Context, db *pgx.Conn, number string) (int64, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(ctx) // after a commit it does nothing
	var id int64
	err = tx.QueryRow(ctx,
		"INSERT INTO orders (number, total) VALUES ($1, $2) RETURNING id", number, "9.90").Scan(&id)
	if err != nil {
		return 0, err
	}
	// Money is text: a JSON number would be rounded by some reader.
	payload, err := json.Marshal(map[string]any{"order_id": id, "number": number, "total": "9.90"})
	if err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx,
		`INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
		 VALUES ('order', $1::bigint::text, 'order.placed', $2)`, id, payload)
	if err != nil {
		return 0, err
	}
	return id, tx.Commit(ctx)
}

func main() {
	ctx := context.Background()
	db, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err == nil {
		defer db.Close(ctx)
		var id int64
		if id, err = place(ctx, db, os.Args[1]); err == nil {
			fmt.Println(id)
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
