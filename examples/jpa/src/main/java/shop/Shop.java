package shop;

import jakarta.persistence.EntityManagerFactory;
import jakarta.persistence.Persistence;
import java.math.BigDecimal;
import java.net.URI;
import java.util.Map;
import org.flywaydb.core.Flyway;
import org.hibernate.SessionFactory;

/** Places an order: the order's row and its event are one transaction. */
public final class Shop {
    private final EntityManagerFactory factory;

    Shop(EntityManagerFactory factory) {
        this.factory = factory;
    }

    long place(String number) {
        // In a Spring service this is @Transactional on the method.
        return factory.unwrap(SessionFactory.class).fromTransaction(manager -> {
            Order order = new Order(number, new BigDecimal("9.90"));
            manager.persist(order);
            // Its row before its event; an id of the database is known from here on, too.
            manager.flush();
            manager.persist(new OutboxEvent("order", String.valueOf(order.id), "order.placed", Map.of(
                    "order_id", order.id, "number", order.number,
                    // Money is text: a JSON number would be rounded by some reader.
                    "total", order.total.toPlainString())));
            return order.id;
        });
    }

    public static void main(String[] arguments) {
        URI url = URI.create(System.getenv("DATABASE_URL"));
        String[] login = url.getUserInfo().split(":", 2);
        String jdbc = "jdbc:postgresql://" + url.getHost() + ":" + url.getPort() + url.getPath();
        Flyway.configure().dataSource(jdbc, login[0], login[1]).load().migrate();
        try (EntityManagerFactory factory = Persistence.createEntityManagerFactory("shop", Map.of(
                "jakarta.persistence.jdbc.url", jdbc,
                "jakarta.persistence.jdbc.user", login[0],
                "jakarta.persistence.jdbc.password", login[1]))) {
            System.out.println(new Shop(factory).place(arguments[0]));
        }
    }
}
