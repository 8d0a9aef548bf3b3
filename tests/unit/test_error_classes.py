"""What is done about every error class of the three client libraries.

A class that a new version of a library adds fails here until somebody has decided about it.
"""

import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType

import aiokafka.errors
import asyncpg
import asyncpg.exceptions
import pytest
import redis.exceptions

from storage.cache import CACHE_ERRORS
from storage.errors import (
    ContentionPersistsError,
    Remedy,
    in_words,
    is_contention,
    is_suspect,
    is_unavailable,
    remedy_of,
)
from workers.kafka_errors import KafkaRemedy, is_kafka_trouble, kafka_remedy_of

POSTGRES: Mapping[Remedy, str] = {
    Remedy.WAIT: """
        AdminShutdownError CannotConnectNowError ClientCannotConnectError ConfigurationLimitExceededError
        ConnectionDoesNotExistError ConnectionFailureError ConnectionRejectionError CrashShutdownError
        DataCorruptedError DatabaseDroppedError DiskFullError DuplicateFileError FatalPostgresError
        FileNameTooLongError IdleInTransactionSessionTimeoutError IdleSessionTimeoutError
        IndexCorruptedError InsufficientPrivilegeError InsufficientResourcesError InternalClientError
        InvalidAuthorizationSpecificationError InvalidCatalogNameError InvalidPasswordError ObjectInUseError
        ObjectNotInPrerequisiteStateError OperatorInterventionError PostgresConnectionError PostgresIOError
        PostgresSystemError ProtocolError ProtocolViolationError ReadOnlySQLTransactionError
        StatementCompletionUnknownError TargetServerAttributeNotMatched TooManyConnectionsError
        TransactionResolutionUnknownError UndefinedFileError UnknownPostgresError
    """,
    Remedy.RETRY: """
        DeadlockDetectedError InvalidCachedStatementError LockNotAvailableError OutdatedSchemaCacheError
        SerializationError SnapshotTooOldError TransactionIntegrityConstraintViolationError
        TransactionRollbackError UniqueViolationError
    """,
    Remedy.ISOLATE: """
        InternalServerError OutOfMemoryError QueryCanceledError TransactionTimeoutError
    """,
    Remedy.BISECT: """
        ArraySubscriptError AssertError BadCopyFileFormatError CharacterNotInRepertoireError
        CheckViolationError DataError DatetimeFieldOverflowError DivisionByZeroError
        DuplicateJsonObjectKeyValueError ErrorInAssignmentError EscapeCharacterConflictError
        ExclusionViolationError ForeignKeyViolationError IndicatorOverflowError
        IntegrityConstraintViolationError IntervalFieldOverflowError InvalidArgumentForLogarithmError
        InvalidArgumentForNthValueFunctionError InvalidArgumentForNtileFunctionError
        InvalidArgumentForPowerFunctionError InvalidArgumentForSQLJsonDatetimeFunctionError
        InvalidArgumentForWidthBucketFunctionError InvalidBinaryRepresentationError
        InvalidCharacterValueForCastError InvalidDatetimeFormatError InvalidEscapeCharacterError
        InvalidEscapeOctetError InvalidEscapeSequenceError InvalidIndicatorParameterValueError
        InvalidJsonTextError InvalidParameterValueError InvalidPrecedingOrFollowingSizeError
        InvalidRegularExpressionError InvalidRowCountInLimitClauseError
        InvalidRowCountInResultOffsetClauseError InvalidSQLJsonSubscriptError
        InvalidTablesampleArgumentError InvalidTablesampleRepeatError InvalidTextRepresentationError
        InvalidTimeZoneDisplacementValueError InvalidUseOfEscapeCharacterError InvalidXmlCommentError
        InvalidXmlContentError InvalidXmlDocumentError InvalidXmlProcessingInstructionError
        MoreThanOneSQLJsonItemError MostSpecificTypeMismatchError NoDataFoundError NoSQLJsonItemError
        NonNumericSQLJsonItemError NonUniqueKeysInAJsonObjectError NonstandardUseOfEscapeCharacterError
        NotAnXmlDocumentError NotNullViolationError NullValueNoIndicatorParameterError
        NullValueNotAllowedError NumericValueOutOfRangeError PLPGSQLError PostgresFloatingPointError
        ProgramLimitExceededError RaiseError RestrictViolationError SQLJsonArrayNotFoundError
        SQLJsonItemCannotBeCastToTargetTypeError SQLJsonMemberNotFoundError SQLJsonNumberNotFoundError
        SQLJsonObjectNotFoundError SQLJsonScalarRequiredError SequenceGeneratorLimitExceededError
        SingletonSQLJsonItemRequiredError StatementTooComplexError StringDataLengthMismatchError
        StringDataRightTruncationError SubstringError TooManyArgumentsError TooManyColumnsError
        TooManyJsonArrayElementsError TooManyJsonObjectMembersError TooManyRowsError TrimError
        UnterminatedCStringError UntranslatableCharacterError WithCheckOptionViolationError
        ZeroLengthCharacterStringError
    """,
    Remedy.REFUSE: """
        DuplicatePreparedStatementError InvalidSQLStatementNameError
    """,
    Remedy.CRASH: """
        ActiveSQLTransactionError AmbiguousAliasError AmbiguousColumnError AmbiguousFunctionError
        AmbiguousParameterError BranchTransactionAlreadyActiveError CannotCoerceError
        CantChangeRuntimeParamError CardinalityViolationError CaseNotFoundError ClientConfigurationError
        CollationMismatchError ConfigFileError ContainingSQLNotPermittedError DatatypeMismatchError
        DependentObjectsStillExistError DependentPrivilegeDescriptorsStillExistError DiagnosticsError
        DuplicateAliasError DuplicateColumnError DuplicateCursorError DuplicateDatabaseError
        DuplicateFunctionError DuplicateObjectError DuplicateSchemaError DuplicateTableError
        EventTriggerProtocolViolatedError ExternalRoutineError ExternalRoutineInvocationError
        FDWColumnNameNotFoundError FDWDynamicParameterValueNeededError FDWError FDWFunctionSequenceError
        FDWInconsistentDescriptorInformationError FDWInvalidAttributeValueError FDWInvalidColumnNameError
        FDWInvalidColumnNumberError FDWInvalidDataTypeDescriptorsError FDWInvalidDataTypeError
        FDWInvalidDescriptorFieldIdentifierError FDWInvalidHandleError FDWInvalidOptionIndexError
        FDWInvalidOptionNameError FDWInvalidStringFormatError FDWInvalidStringLengthOrBufferLengthError
        FDWInvalidUseOfNullPointerError FDWNoSchemasError FDWOptionNameNotFoundError FDWOutOfMemoryError
        FDWReplyHandleError FDWSchemaNotFoundError FDWTableNotFoundError FDWTooManyHandlesError
        FDWUnableToCreateExecutionError FDWUnableToCreateReplyError FDWUnableToEstablishConnectionError
        FeatureNotSupportedError FunctionExecutedNoReturnStatementError GeneratedAlwaysError GroupingError
        HeldCursorRequiresSameIsolationLevelError InFailedSQLTransactionError
        InappropriateAccessModeForBranchTransactionError
        InappropriateIsolationLevelForBranchTransactionError IndeterminateCollationError
        IndeterminateDatatypeError InterfaceError InvalidArgumentForXqueryError InvalidColumnDefinitionError
        InvalidColumnReferenceError InvalidCursorDefinitionError InvalidCursorNameError
        InvalidCursorStateError InvalidDatabaseDefinitionError InvalidForeignKeyError
        InvalidFunctionDefinitionError InvalidGrantOperationError InvalidGrantorError
        InvalidLocatorSpecificationError InvalidNameError InvalidObjectDefinitionError
        InvalidPreparedStatementDefinitionError InvalidRecursionError InvalidRoleSpecificationError
        InvalidSavepointSpecificationError InvalidSchemaDefinitionError InvalidSchemaNameError
        InvalidSqlstateReturnedError InvalidTableDefinitionError InvalidTransactionInitiationError
        InvalidTransactionStateError InvalidTransactionTerminationError LocatorError LockFileExistsError
        ModifyingExternalRoutineSQLDataNotPermittedError ModifyingSQLDataNotPermittedError NameTooLongError
        NoActiveSQLTransactionError NoActiveSQLTransactionForBranchTransactionError
        NullValueInExternalRoutineNotAllowedError PostgresError PostgresSyntaxError
        ProhibitedExternalRoutineSQLStatementAttemptedError ProhibitedSQLStatementAttemptedError
        ReadingExternalRoutineSQLDataNotPermittedError ReadingSQLDataNotPermittedError ReservedNameError
        SQLRoutineError SQLStatementNotYetCompleteError SavepointError
        SchemaAndDataStatementMixingNotSupportedError SrfProtocolViolatedError
        StackedDiagnosticsAccessedWithoutActiveHandlerError SyntaxOrAccessError TriggerProtocolViolatedError
        TriggeredActionError TriggeredDataChangeViolationError UndefinedColumnError UndefinedFunctionError
        UndefinedObjectError UndefinedParameterError UndefinedTableError UnsafeNewEnumValueUsageError
        UnsupportedClientFeatureError UnsupportedServerFeatureError WindowingError WrongObjectTypeError
    """,
}
# Logged by the server and never raised.
POSTGRES_WARNINGS = """
    DeprecatedFeature DynamicResultSetsReturned ImplicitZeroBitPadding InterfaceWarning
    NoAdditionalDynamicResultSetsReturned NoData NullValueEliminatedInSetFunction PostgresWarning
    PrivilegeNotGranted PrivilegeNotRevoked StringDataRightTruncation
"""

KAFKA: Mapping[KafkaRemedy, str] = {
    KafkaRemedy.WAIT: """
        AuthenticationFailedError AuthenticationMethodNotSupported BrokerNotAvailableError
        BrokerResponseError Cancelled ClusterAuthorizationFailedError ConcurrentTransactions
        CorrelationIdError DelegationTokenAuthDisabled DelegationTokenAuthorizationFailed
        DelegationTokenExpired DelegationTokenNotFound DelegationTokenOwnerMismatch
        DelegationTokenRequestNotAllowed DuplicateSequenceNumber FetchSessionIdNotFound
        GroupAuthorizationFailedError GroupCoordinatorNotAvailableError GroupIdNotFound
        GroupLoadInProgressError IllegalSaslStateError IncompatibleBrokerVersion
        InconsistentGroupProtocolError InvalidCommitOffsetSizeError InvalidConfigurationError
        InvalidFetchRequestError InvalidFetchSessionEpoch InvalidGroupIdError InvalidPartitionsError
        InvalidPrincipalType InvalidProducerEpoch InvalidProducerIdMapping InvalidReplicationAssignmentError
        InvalidReplicationFactorError InvalidSessionTimeoutError InvalidTransactionTimeout InvalidTxnState
        KafkaConnectionError KafkaError KafkaProtocolError KafkaStorageError KafkaTimeoutError
        KafkaUnavailableError LeaderNotAvailableError ListenerNotFound LogDirNotFound
        MetadataEmptyBrokerList NoBrokersAvailable NoOffsetForPartitionError NodeNotReadyError NonEmptyGroup
        NotControllerError NotCoordinatorForGroupError NotEnoughReplicasAfterAppendError
        NotEnoughReplicasError NotLeaderForPartitionError OffsetMetadataTooLargeError OffsetOutOfRangeError
        OperationNotAttempted OutOfOrderSequenceNumber ProducerClosed ProducerFenced QuotaViolationError
        ReassignmentInProgress ReplicaNotAvailableError RequestTimedOutError SaslAuthenticationFailed
        SecurityDisabled StaleControllerEpochError StaleLeaderEpochCodeError StaleMetadata
        TooManyInFlightRequests TopicAlreadyExistsError TopicAuthorizationFailedError
        TransactionCoordinatorFenced TransactionalIdAuthorizationFailed UnknownError UnknownProducerId
        UnknownTopicOrPartitionError UnrecognizedBrokerVersion UnsupportedCodecError
        UnsupportedSaslMechanismError UnsupportedVersionError
    """,
    KafkaRemedy.REJOIN: """
        CommitFailedError IllegalGenerationError IllegalStateError MemberIdRequired RebalanceInProgressError
        UnknownMemberIdError
    """,
    KafkaRemedy.UNDELIVERABLE: """
        CorruptRecordException InvalidTimestampError InvalidTopicError MessageSizeTooLargeError
        PolicyViolationError RecordListTooLargeError RecordTooLargeError UnsupportedForMessageFormatError
    """,
    KafkaRemedy.CRASH: """
        ConsumerStoppedError IllegalArgumentError IllegalOperation InvalidRequestError
        InvalidRequiredAcksError KafkaConfigurationError NoError
    """,
}

# The cache does without Redis, whatever is wrong with it.
REDIS = """
    AskError AuthenticationError AuthenticationWrongNumberOfArgsError AuthorizationError BusyLoadingError
    ClusterCrossSlotError ClusterDownError ClusterError ConnectionError DataError ExecAbortError
    ExternalAuthProviderError InvalidResponse LockError LockNotOwnedError MasterDownError MaxConnectionsError
    ModuleError MovedError NoPermissionError NoScriptError NoSuchFieldsetError OutOfMemoryError PubSubError
    ReadOnlyError RedisError ResponseError TimeoutError TryAgainError WatchError
"""
# Of clients that the cache does not use: Redis Cluster and forking processes.
REDIS_NEVER_RAISED = """
    ChildDeadlockedError CrossSlotTransactionError IncorrectPolicyType InvalidPipelineStack
    RedisClusterException SlotNotCoveredError
"""


def test_every_class_of_asyncpg_has_its_remedy() -> None:
    """A timeout is waited for, a value bisected, a bug ends the process: none is left to chance."""
    expected = {name: remedy for remedy, names in POSTGRES.items() for name in names.split()}
    found = {name: remedy_of(kind("message")) for name, kind in _classes(asyncpg.exceptions)}
    for name in POSTGRES_WARNINGS.split():
        del found[name]
    assert expected == found


def test_every_class_of_aiokafka_has_its_remedy() -> None:
    """A cluster that is away is waited for, a record that it will not take is set aside."""
    expected = {name: remedy for remedy, names in KAFKA.items() for name in names.split()}
    assert expected == {kind.__name__: kafka_remedy_of(kind("message")) for _, kind in _classes(aiokafka.errors)}


def test_every_class_of_redis_is_a_cache_error() -> None:
    """The readers go to PostgreSQL, whatever Redis raises."""
    found = {name: issubclass(kind, CACHE_ERRORS) for name, kind in _classes(redis.exceptions)}
    assert dict.fromkeys(REDIS.split(), True) | dict.fromkeys(REDIS_NEVER_RAISED.split(), False) == found


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), Remedy.WAIT),
        (asyncpg.InterfaceError("the server expects 1 argument for this query"), Remedy.CRASH),
        (asyncpg.ProtocolViolationError("unsupported startup parameter: enable_seqscan"), Remedy.REFUSE),
        (asyncpg.ProtocolViolationError("query_wait_timeout"), Remedy.WAIT),
        (ContentionPersistsError("a lock"), Remedy.WAIT),
        (ConnectionResetError(), Remedy.WAIT),
        (TimeoutError(), Remedy.WAIT),
        (OverflowError(), Remedy.BISECT),
        (ZeroDivisionError(), Remedy.CRASH),
    ],
    ids=repr,
)
def test_what_the_class_alone_does_not_say(error: Exception, remedy: Remedy) -> None:
    """Some classes mean two things, which their messages tell apart; and some errors are Python's own."""
    assert remedy is remedy_of(error)


def test_a_suspect_is_waited_for_first() -> None:
    """A statement that timed out may be the batch's fault or the server's: a retry decides."""
    error = asyncpg.QueryCanceledError("canceling statement due to statement timeout")
    assert (True, True, False) == (is_unavailable(error), is_suspect(error), is_contention(error))


def test_a_wrong_call_of_the_client_is_no_trouble_of_kafka() -> None:
    """Trying again would hide a bug."""
    errors = (aiokafka.errors.KafkaConnectionError(), aiokafka.errors.IllegalArgumentError(), ValueError())
    assert [True, False, False] == [is_kafka_trouble(error) for error in errors]


@pytest.mark.parametrize(
    ("query", "statement"),
    [
        (
            "\nSELECT order_id, status\nFROM orders WHERE order_id = ANY($1) FOR NO KEY UPDATE",
            "SELECT FROM orders",
        ),
        ("SELECT i.digest FROM unnest($1::text[]) AS k (id) JOIN inbox i ON i.event_id = k.id", "SELECT FROM inbox"),
        ("\nUPDATE inventory SET on_hand = u.on_hand FROM unnest($1)", "UPDATE inventory"),
        ('COPY "inventory_transactions"("product_id") FROM STDIN', "COPY inventory_transactions"),
        ("\nINSERT INTO stream_progress AS s (topic)", "INSERT INTO stream_progress"),
        ("DELETE FROM inbox USING unnest($1)", "DELETE FROM inbox"),
        ("WITH marked AS (UPDATE outbox SET published_at = $5) SELECT 1 FROM outbox", "UPDATE outbox"),
        ("COMMIT", "COMMIT"),
    ],
)
def test_a_timeout_names_its_statement(query: str, statement: str) -> None:
    """The operator looks for a lock on a table, or for a slow statement."""
    error = asyncpg.QueryCanceledError("canceling statement due to lock timeout")
    error.query = query
    assert f"canceling statement due to lock timeout, in {statement}" == in_words(error)


def _classes(module: ModuleType) -> Iterator[tuple[str, type[Exception]]]:
    """Give the module's exceptions and their names."""
    for name, kind in vars(module).items():
        if inspect.isclass(kind) and issubclass(kind, Exception):
            yield name, kind
