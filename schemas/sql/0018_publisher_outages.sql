-- What another publisher was away for (its slot, its connector), as the witnesses saw it: told of a night that is over.
ALTER TABLE relay.outage_record DROP CONSTRAINT outage_record_resource_check;
ALTER TABLE relay.outage_record
  ADD CONSTRAINT outage_record_resource_check CHECK (resource IN ('database', 'broker', 'publisher'));
