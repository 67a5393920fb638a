//! Rows of Parquet and Arrow files, as JSON objects. Values that JSON cannot represent (bytes, for example images) are left out, and so are
//! nulls: in columnar files every row has every field.

use super::FileFormat;
use crate::data::display_text;
use crate::vfs::{FileCursor, VfsReader};
use anyhow::{Context, Result, anyhow, bail};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::{FileReader as ArrowFile, StreamReader};
use arrow_schema::DataType;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};
use std::io::BufReader;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

type RowIterator = Box<dyn Iterator<Item = Result<Map<String, Value>>>>;

/// Rows read ahead.
const AHEAD: usize = 32;

/// A columnar file, read row by row on a separate thread.
pub(in crate::data) struct Columns {
    name: String,
    /// `None` after the last one.
    rows: Receiver<Option<Result<Map<String, Value>>>>,
    columns: Vec<String>,
    /// Number of rows according to the file.
    all: Option<u64>,
    done: u64,
}

impl Columns {
    /// Reads a file of this format; if `only` is given, the other columns are not read.
    ///
    /// # Errors
    /// A damaged file.
    pub(in crate::data) fn open(name: &str, file: Arc<dyn VfsReader>, format: FileFormat, only: Option<&str>) -> Result<Self> {
        let name = name.to_owned();
        // The readers are not `Send`, and panic on some damaged files, which must only end this thread.
        let (opened, columns) = mpsc::sync_channel(1);
        let (sender, rows) = mpsc::sync_channel(AHEAD);
        let only = only.map(str::to_owned);
        let read = move || {
            let found = match rows_of(file, format, only.as_deref()) {
                Ok((rows, columns, all)) => opened.send(Ok((columns, all))).map(|()| rows),
                Err(error) => opened.send(Err(error)).map(|()| Box::new(std::iter::empty()) as RowIterator),
            };
            // Sending fails when the receiver is gone.
            let all = found.into_iter().flatten().map(Some).chain([None]);
            all.map(|row| sender.send(row)).take_while(std::result::Result::is_ok).for_each(drop);
        };
        std::thread::Builder::new().name("columns".into()).spawn(read).context("cannot start a thread to read columns")?;
        let (columns, all) = columns
            .recv()
            .unwrap_or_else(|_| Err(anyhow!("it is damaged")))
            .map_err(|e| anyhow!("{name}: cannot be read: {}", display_text(&e.to_string())))?;
        Ok(Self { name, rows, columns, all, done: 0 })
    }

    /// Column names.
    pub(in crate::data) fn names(&self) -> &[String] {
        &self.columns
    }

    /// The next row, counted from 1.
    ///
    /// # Errors
    /// A damaged file, with the number of the row.
    pub(in crate::data) fn next_row(&mut self) -> Result<Option<(u64, Map<String, Value>)>> {
        let Some(row) = self.rows.recv().unwrap_or_else(|_| Some(Err(anyhow!("it is damaged")))) else { return Ok(None) };
        self.done += 1;
        let row = row.map_err(|e| {
            let e = e.to_string();
            let cure = match () {
                () if e.contains("brotli") => "; compress it with zstd or snappy instead",
                () if e.contains("IPC decompression") => {
                    return anyhow!(
                        "{}: its columns are compressed, which lehr does not read in Arrow files. Write it without compression, or as \
                         Parquet",
                        self.name
                    );
                }
                () => "",
            };
            anyhow!("{}: row {}: cannot be read: {}{cure}", self.name, self.done, display_text(&e))
        })?;
        Ok(Some((self.done, row)))
    }

    /// Estimated number of bytes read of a file with `bytes` bytes.
    pub(in crate::data) fn bytes_done(&self, bytes: u64) -> u64 {
        match self.all {
            Some(all) if all > 0 => (bytes as f64 * (self.done as f64 / all as f64).min(1.0)) as u64,
            _ => 0,
        }
    }
}

/// (rows, names of all columns, number of rows)
fn rows_of(file: Arc<dyn VfsReader>, format: FileFormat, only: Option<&str>) -> Result<(RowIterator, Vec<String>, Option<u64>)> {
    match format {
        FileFormat::Parquet => parquet_rows(file, only),
        FileFormat::Arrow => arrow_rows(file),
        FileFormat::Text | FileFormat::JsonLines | FileFormat::JsonList => bail!("it is not in columns"),
    }
}

/// A file for the Parquet crate.
struct ParquetFile(Arc<dyn VfsReader>);

impl Length for ParquetFile {
    fn len(&self) -> u64 {
        self.0.bytes()
    }
}

impl ChunkReader for ParquetFile {
    type T = BufReader<FileCursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(FileCursor::new(self.0.clone(), start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        // Checked before the memory is taken: the length comes from the file.
        if start.checked_add(length as u64).is_none_or(|end| end > self.0.bytes()) {
            return Err(ParquetError::EOF("a column lies beyond the end of the file".into()));
        }
        let mut out = vec![0; length];
        self.0.read_exact_at(&mut out, start)?;
        Ok(out.into())
    }
}

fn parquet_rows(file: Arc<dyn VfsReader>, only: Option<&str>) -> Result<(RowIterator, Vec<String>, Option<u64>)> {
    super::footer::check(&*file)?;
    let reader = SerializedFileReader::new(ParquetFile(file))?;
    let meta = reader.metadata().file_metadata();
    let schema = meta.schema().clone();
    let names = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
    let all = u64::try_from(meta.num_rows()).ok();
    let mut rows = RowIter::from_file_into(Box::new(reader));
    if let Some(only) = only {
        let fields: Vec<_> = schema.get_fields().iter().filter(|field| field.name() == only).cloned().collect();
        let builder = parquet::schema::types::Type::group_type_builder(schema.name()).with_fields(fields);
        rows = rows.project(Some(builder.build()?))?;
    }
    Ok((Box::new(rows.map(|row| Ok(object(row?)))), names, all))
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().filter_map(|(name, field)| Some((name, json(field)?))).collect()
}

fn json(field: Field) -> Option<Value> {
    Some(match field {
        Field::Bool(x) => x.into(),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) | Field::Date(x) | Field::TimeMillis(x) => x.into(),
        Field::Long(x) | Field::TimeMicros(x) | Field::TimestampMillis(x) | Field::TimestampMicros(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float16(x) => float(x.to_f64())?,
        Field::Float(x) => float(x.into())?,
        Field::Double(x) => float(x)?,
        Field::Str(text) => Value::String(text),
        Field::Group(row) => Value::Object(object(row)),
        // Parquet wraps the elements of a list in groups.
        Field::ListInternal(list) => list.elements().iter().map(|x| json(x.clone()).unwrap_or(Value::Null)).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| match (key, json(value.clone())) {
                (Field::Str(key), Some(value)) => Some((key.clone(), value)),
                _ => None,
            };
            Value::Object(map.entries().iter().filter_map(entry).collect())
        }
        _ => return None,
    })
}

fn float(x: f64) -> Option<Value> {
    Number::from_f64(x).map(Value::Number)
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, arrow_schema::ArrowError>>>;

fn arrow_rows(file: Arc<dyn VfsReader>) -> Result<(RowIterator, Vec<String>, Option<u64>)> {
    let mut head = [0; 6];
    let is_file = file.bytes() >= 6 && file.read_exact_at(&mut head, 0).map(|()| head == *b"ARROW1")?;
    let reader = BufReader::with_capacity(1 << 18, FileCursor::new(file, 0));
    let (batches, schema): (Batches, _) = if is_file {
        let reader = ArrowFile::try_new(reader, None)?;
        let schema = reader.schema();
        (Box::new(reader), schema)
    } else {
        let reader = StreamReader::try_new(reader, None)?;
        let schema = reader.schema();
        (Box::new(reader), schema)
    };
    let names = schema.fields().iter().map(|field| field.name().clone()).collect();
    let rows = batches.flat_map(|batch| match batch {
        Ok(batch) => Box::new((0..batch.num_rows()).map(move |row| Ok(row_of(&batch, row)))) as RowIterator,
        Err(error) => Box::new(std::iter::once(Err(error.into()))) as RowIterator,
    });
    Ok((Box::new(rows), names, None))
}

fn row_of(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema_ref();
    let fields = schema.fields().iter().zip(batch.columns());
    fields.filter_map(|(field, column)| Some((field.name().clone(), value_of(column.as_ref(), row)?))).collect()
}

/// A value of a column; `None` if it is null, or of a type that JSON cannot represent.
fn value_of(column: &dyn Array, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    let list = |list: arrow_array::ArrayRef| (0..list.len()).map(|i| value_of(list.as_ref(), i).unwrap_or(Value::Null)).collect();
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float16 => float(column.as_primitive::<Float16Type>().value(row).to_f64())?,
        DataType::Float32 => float(column.as_primitive::<Float32Type>().value(row).into())?,
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row))?,
        DataType::List(_) => list(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(column.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let group = column.as_struct();
            let values = fields.iter().zip(group.columns());
            Value::Object(
                values.filter_map(|(field, column)| Some((field.name().clone(), value_of(column.as_ref(), row)?))).collect(),
            )
        }
        _ => return None,
    })
}
