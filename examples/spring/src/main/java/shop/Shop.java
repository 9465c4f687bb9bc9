package shop;

import java.net.URI;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.jdbc.datasource.DriverManagerDataSource;
import org.springframework.transaction.support.TransactionTemplate;

/** Places an order: the order's row and its event are one transaction. */
public final class Shop {
    private final JdbcTemplate jdbc;
    private final TransactionTemplate transaction;

    Shop(DriverManagerDataSource source) {
        jdbc = new JdbcTemplate(source);
        // In a Spring service this is @Transactional on the method.
        transaction = new TransactionTemplate(new DataSourceTransactionManager(source));
    }

    long place(String number) {
        return transaction.execute(status -> {
            long id = jdbc.queryForObject(
                    "INSERT INTO orders (number, total) VALUES (?, 9.90) RETURNING id", Long.class, number);
            // Money is text: a JSON number would be rounded by some reader. Use your JSON mapper here.
            String payload = "{\"order_id\": %d, \"number\": \"%s\", \"total\": \"9.90\"}".formatted(id, number);
            // JDBC sends text as varchar: json wants the cast.
            jdbc.update(
                    "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                            + " VALUES ('order', ?, 'order.placed', ?::json)",
                    String.valueOf(id), payload);
            return id;
        });
    }

    public static void main(String[] arguments) {
        URI url = URI.create(System.getenv("DATABASE_URL"));
        String[] login = url.getUserInfo().split(":", 2);
        var source = new DriverManagerDataSource(
                "jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath(), login[0], login[1]);
        System.out.println(new Shop(source).place(arguments[0]));
    }
}
