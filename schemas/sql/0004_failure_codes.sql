-- What a process waits for, ended by, or could not reach, as a code beside the sentence: SQLSTATE,
-- Kafka's error code, or the relay's own word. Sentences come in the server's language; diagnosis
-- judges codes only. A process of an older version writes none: NULL, never judged by its words.

SET LOCAL ROLE relay_owner;

ALTER TABLE relay.process_record
    ADD COLUMN failure_code text,       -- what it waits for now: sqlstate:42501, broker:timed_out
    ADD COLUMN stop_code    text;       -- what ended it
ALTER TABLE relay.outage_record
    ADD COLUMN failure_code text;
