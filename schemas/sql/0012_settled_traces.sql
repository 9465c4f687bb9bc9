-- A trace that says that a return is missing says later that it came, or who closed it: the watchdog finds
-- the cases whose trace does not say so yet by this index. relay.overdue.reported_as is `settled` then.

SET LOCAL ROLE relay_owner;

CREATE INDEX overdue_settled ON relay.overdue (closed_at) WHERE reported_as <> 'settled';
