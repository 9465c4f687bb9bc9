// Places an order: the order's row and its event are one transaction.
//
//     node order.mjs A-1
import pg from "pg";

/** Returns the order's id, as text: a bigint is no JavaScript number. */
export async function place(client, number) {
  await client.query("BEGIN");
  try {
    const placed = await client.query(
      "INSERT INTO orders (number, total) VALUES ($1, $2) RETURNING id", [number, "9.90"]);
    const id = placed.rows[0].id;
    // Money is text: a JSON number would be rounded by some reader.
    const payload = JSON.stringify({ order_id: id, number, total: "9.90" });
    await client.query(
      `INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
       VALUES ('order', $1, 'order.placed', $2)`, [id, payload]);
    await client.query("COMMIT");
    return id;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  }
}

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  console.log(await place(client, process.argv[2]));
} catch (error) {
  console.error(String(error));
  process.exitCode = 1;
} finally {
  await client.end();
}
