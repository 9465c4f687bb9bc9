-- Several flows in one installation: cases and incidents are of one of them, and two flows may have
-- orders of one id. '' is what was written before, and is the first flow's.

SET LOCAL ROLE relay_owner;

ALTER TABLE relay.overdue ADD COLUMN flow text NOT NULL DEFAULT '';
ALTER TABLE relay.incident ADD COLUMN flow text NOT NULL DEFAULT '';

GRANT INSERT (flow) ON relay.overdue, relay.incident
    TO relay_publisher, relay_confirmer, relay_operator;
