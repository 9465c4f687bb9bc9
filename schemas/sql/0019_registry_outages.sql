-- A schema registry that cannot be asked is an outage as well: returns wait for it, and none is refused.

SET LOCAL ROLE relay_owner;

ALTER TABLE relay.outage_record DROP CONSTRAINT outage_record_resource_check;
ALTER TABLE relay.outage_record ADD CONSTRAINT outage_record_resource_check
    CHECK (resource IN ('database', 'broker', 'publisher', 'registry'));
