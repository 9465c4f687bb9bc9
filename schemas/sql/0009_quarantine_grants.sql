-- Columns of the quarantine that came since INSERT is granted column by column.

SET LOCAL ROLE relay_owner;

GRANT INSERT (kept, from_offset, whole_bytes, whole_sha256) ON relay.quarantine
    TO relay_publisher, relay_confirmer;
