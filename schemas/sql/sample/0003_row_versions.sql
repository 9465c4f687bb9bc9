-- Which transaction wrote an order tells what happened to its event, where it has none. The operator may
-- read the whole table.

GRANT SELECT (xmin) ON public.orders TO relay_publisher, relay_confirmer, relay_observer;
