from services.etl.app import main

main()
